package ingress

import (
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/process"
)

// FrontOptions configure a Front.
type FrontOptions struct {
	Proxies            []netip.Prefix       // whose X-Forwarded-For is believed
	ClientCertificates bool                 // whether who connects must have shown one that TLS has verified
	MaxBytes           int64                // memory for the bodies in flight; twice with Codat's own
	LogAccepted        int                  // lines a second for requests that were accepted, before some are left out
	Traces             trace.TracerProvider // nil for none
}

// Whose a request is, as far as its address tells: each has rooms and places of its own.
const (
	others = iota
	codats
)

// A Front is the public side of the ingress: its doors, one for each source, and what they share.
type Front struct {
	proxies            networks
	clientCertificates bool
	rooms              [2]*room
	accepted           sampler
	tracer             trace.Tracer // nil when traces are off
	log                *zap.Logger
	shared             *frontMetrics
	echo               *echo.Echo
	draining           atomic.Bool
}

// NewFront makes a front without a door: it answers 404. The deadlines of a request are those of the http.Server that
// it is put into.
func NewFront(o FrontOptions, log *zap.Logger, registerer prometheus.Registerer) *Front {
	f := &Front{
		proxies:            o.Proxies,
		clientCertificates: o.ClientCertificates,
		rooms:              [2]*room{others: newRoom(o.MaxBytes), codats: newRoom(o.MaxBytes)},
		accepted:           sampler{most: int64(o.LogAccepted)},
		log:                log,
		tracer:             process.Tracer(o.Traces, "github.com/headgate/headgate/ingress"),
		echo:               echo.New(),
	}
	f.shared = newFrontMetrics(registerer, f.rooms)
	elsewhere := &door{Front: f, metrics: newElsewhereMetrics(registerer)}
	f.echo.HTTPErrorHandler = func(err error, c echo.Context) {
		elsewhere.end(c, &request{came: time.Now(), size: -1}, err)
	}
	return f
}

// Open opens a door to a receiver. No two have the same path or source. Open all before the front serves.
func (f *Front) Open(r *Receiver, o DoorOptions) { f.open(r, o) }

func (f *Front) open(r *Receiver, o DoorOptions) *metrics {
	d := &door{
		DoorOptions: o,
		Front:       f,
		receiver:    r,
		bodies:      newBodies(o.MaxBody),
		metrics:     newMetrics(f.shared.registerer, r.Source),
		limiter:     newLimiter(o.UnprovenRate),
	}
	f.echo.Any(o.Path, d.receive) // any method: echo itself would answer OPTIONS with a 2xx
	return d.metrics
}

// ServeHTTP answers a request, without a body.
func (f *Front) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	greet(req)
	f.echo.ServeHTTP(w, req)
}

// Drain lets connections go: the sender, or a balancer, is asked to make a new one with each answer
// from now on. Requests are still received.
func (f *Front) Drain() { f.draining.Store(true) }

// A sampler says of which of many like lines one is written: of the first ones of each second, and of one in a
// hundred of the others.
type sampler struct {
	most   int64
	second atomic.Int64
	count  atomic.Int64
}

const oneOf = 100

// take reports whether a line is written. Where two seconds meet it may be wrong by a few.
func (s *sampler) take(now time.Time) bool {
	if s.most == 0 {
		return false
	}
	if second := now.Unix(); s.second.Swap(second) != second {
		s.count.Store(0)
	}
	n := s.count.Add(1)
	return n <= s.most || (n-s.most)%oneOf == 0
}
