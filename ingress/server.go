package ingress

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/headgate/headgate/ingress/connlimit"
	"github.com/headgate/headgate/pkg/clientip"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
)

// serverOptions configure a server.
type serverOptions struct {
	TrustedProxies     []netip.Prefix       // proxies whose X-Forwarded-For is trusted
	ClientCertificates bool                 // whether a client must have presented a certificate that TLS verified
	MaxBytes           int64                // memory for the bodies in flight of each client class
	LogAccepted        int                  // log lines a second for accepted requests, and as many for duplicates, before some are left out
	Traces             trace.TracerProvider // nil for no traces
	Observer           process.Observer     // nil for none
}

// A server is the public side of the ingress: a handler for each source, and what they share.
type server struct {
	proxies            clientip.Networks
	clientCertificates bool
	budgets            [numClasses]*budget
	slots              [numClasses]*signature.SlotPool
	accepted           sampler
	duplicates         sampler
	refusals           *refusalLog
	diagnoses          [numClasses]*rate.Limiter
	diagnosing         sync.WaitGroup
	tracer             trace.Tracer // nil when traces are off
	log                *zap.Logger
	observer           process.Observer // nil in production
	shared             *serverMetrics
	drift              *drift
	handlers           []*handler // of all sources
	echo               *echo.Echo
	draining           atomic.Bool
}

// newServer returns a server without a handler: it responds 404. The deadlines of a request are those of the http.Server
// that it is the handler of.
func newServer(o serverOptions, log *zap.Logger, registerer prometheus.Registerer) *server {
	s := &server{
		proxies:            o.TrustedProxies,
		clientCertificates: o.ClientCertificates,
		accepted:           sampler{limit: int64(o.LogAccepted)},
		duplicates:         sampler{limit: int64(o.LogAccepted)},
		refusals:           &refusalLog{log: log},
		log:                log,
		observer:           o.Observer,
		tracer:             process.Tracer(o.Traces, "github.com/headgate/headgate/ingress"),
		echo:               echo.New(),
	}
	for class := range s.budgets {
		s.budgets[class] = newBudget(o.MaxBytes)
		s.diagnoses[class] = newDiagnosisLimit()
		s.slots[class] = signature.NewSlotPool(runtime.GOMAXPROCS(0))
	}
	s.shared = newServerMetrics(registerer, s.budgets)
	s.drift = newDrift(registerer, log)
	unrouted := &handler{server: s, metrics: newUnroutedMetrics(registerer)}
	s.echo.HTTPErrorHandler = func(err error, c echo.Context) { unrouted.refuseUnrouted(c, err) }
	return s
}

// handle adds a handler for a source. Each source and path occurs once. Add all handlers before the server serves.
func (s *server) handle(o routeOptions) *handler {
	h := &handler{
		routeOptions: o,
		server:       s,
		bodies:       newBodyPool(o.MaxBody),
		metrics:      newMetrics(s.shared.registerer, o.Source),
		limiter:      newLimiter(o.UnverifiedRate),
	}
	s.handlers = append(s.handlers, h)
	s.echo.Any(o.Path, h.receive) // any method: echo would respond to OPTIONS with a 2xx
	return h
}

// refuseUnrouted responds to a request that no route has. It counts against its address for every source.
func (h *handler) refuseUnrouted(c echo.Context, err error) {
	r := &request{received: time.Now(), size: -1}
	h.identify(c.Request(), r)
	if errors.Is(err, echo.ErrNotFound) && looksSigned(c.Request()) {
		err = fmt.Errorf("%w: %w", errSignedPath, err)
	}
	if r.class == classPublic {
		for _, other := range h.handlers {
			if other.limiter.limited(r.client, r.received) {
				err = errRateLimited
			}
		}
	}
	if !errors.Is(err, errRateLimited) {
		h.recordUnrouted(r.client, r.received)
	}
	_ = h.respond(c, r, err) // it always returns nil
}

// looksSigned reports whether a request has the headers of a webhook. Nothing is verified.
func looksSigned(req *http.Request) bool {
	return req.Method == http.MethodPost && (req.Header.Get("webhook-signature") != "" || req.Header.Get("svix-signature") != "")
}

// recordUnrouted counts a request that reached no handler of a source against its address, for every source.
func (s *server) recordUnrouted(client netip.Addr, at time.Time) {
	if classOf(client) != classPublic {
		return
	}
	for _, h := range s.handlers {
		h.limiter.record(client, at)
	}
}

// incomplete counts and logs a connection that closed without a complete HTTP request.
func (s *server) incomplete(remote net.Addr, err error) {
	if addr, parseErr := netip.ParseAddrPort(remote.String()); parseErr == nil && !s.proxies.Contains(addr.Addr().Unmap()) {
		s.recordUnrouted(addr.Addr().Unmap(), time.Now())
	}
	s.shared.incomplete.Inc()
	if s.refusals.allow("incomplete_request") {
		s.log.Warn("connection closed without a complete HTTP request", zap.String("remote", host(remote.String())), zap.Error(err))
	}
}

// handshakeFailed counts and logs a TLS handshake that failed.
func (s *server) handshakeFailed(remote net.Addr, err error) {
	s.shared.tlsFailures.Inc()
	if s.refusals.allow("tls_handshake") {
		s.log.Warn("TLS handshake failed", zap.String("remote", host(remote.String())), zap.String("error", clip(err.Error())))
	}
}

// Write writes a line that net/http logs about a connection.
func (s *server) Write(line []byte) (int, error) {
	if s.refusals.allow("connection") {
		s.log.Warn("connection error", zap.String("error", clip(strings.TrimSpace(string(line)))))
	}
	return len(line), nil
}

// ServeHTTP responds to a request, without a body.
func (s *server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	connlimit.RequestSeen(req)
	s.echo.ServeHTTP(w, req)
}

// drain closes each connection after its next response, so that the client, or a load balancer, makes a new one, to
// another process. Requests are still accepted.
func (s *server) drain() { s.draining.Store(true) }

// A sampler decides which of many similar log lines are written: the first ones of each second, and one in a hundred of
// the others. It is safe for concurrent use.
type sampler struct {
	limit  int64
	second atomic.Int64
	count  atomic.Int64
}

const sampleRate = 100

// sample reports whether a line is written. At the turn of a second it may be wrong by a few.
func (s *sampler) sample(now time.Time) bool {
	if s.limit == 0 {
		return false
	}
	if second := now.Unix(); s.second.Swap(second) != second {
		s.count.Store(0)
	}
	n := s.count.Add(1)
	return n <= s.limit || (n-s.limit)%sampleRate == 0
}
