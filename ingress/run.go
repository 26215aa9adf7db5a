// Package ingress receives Codat's webhooks: it stores a verified request as an event, or refuses it. No request is
// answered 2xx before the stream has the event, and nothing is stored that was not verified.
package ingress

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/ingress/connlimit"
	"github.com/headgate/headgate/pkg/clientip"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// checkTimeout is shorter than the timeout of a health check, so that the error of the stream is reported.
const checkTimeout = 1500 * time.Millisecond

// Run receives webhooks until ctx ends. Then it reports not ready, keeps receiving for the drain delay, finishes the
// requests in flight and closes everything that it opened. It does not wait for NATS: until events can be stored, it
// reports not ready and answers 503.
func Run(ctx context.Context, s *Settings, p *process.Process) error {
	if err := s.Validate(); err != nil {
		return process.Misconfigured(err)
	}
	sources, err := s.openSources()
	if err != nil {
		return process.Misconfigured(err)
	}
	proxies, err := clientip.Parse(s.Proxies)
	if err != nil {
		return process.Misconfigured(err)
	}
	server := newServer(serverOptions{
		TrustedProxies:     proxies,
		ClientCertificates: s.TLSClientCA != "",
		MaxBytes:           int64(s.MaxBytes),
		LogAccepted:        s.LogAccepted,
		Traces:             p.Traces,
		Observer:           p.Observer,
	}, p.Log, p.Metrics)
	files := &reloader{sources: sources, metrics: server.shared, log: p.Log}
	ln, err := s.listen(server, files)
	if err != nil {
		return err
	}
	defer ln.Close() // it is closed already when the server was shut down

	nc, err := stream.Connect(ctx, s.NATS, p.Name, p.Log)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	publisher, err := s.route(server, sources, nc)
	if err != nil {
		return err
	}
	defer publisher.Close()
	addChecks(p.Health, nc, js, sources, files)

	// These goroutines end before the publisher and the connection are closed.
	var background sync.WaitGroup
	defer background.Wait()
	backgroundCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	background.Go(func() { files.run(backgroundCtx) })
	background.Go(func() { server.drift.run(backgroundCtx) })
	for _, src := range sources {
		if s.Provision {
			background.Go(func() { keepProvisioned(backgroundCtx, js, src, provisionInterval, p.Log) })
		}
		background.Go(func() { restoreLastEventTime(backgroundCtx, js, src) })
		p.Log.Info("public listener", zap.Stringer("address", ln.Addr()), zap.String("scheme", ln.scheme), zap.String("path", src.Path),
			zap.String("source", string(src.Name)), zap.Strings("keys", src.fingerprints), zap.Int("authorizations", src.credentials.count()))
	}
	return serve(ctx, s, p, server, ln)
}

// A publicListener is the listener that clients connect to.
type publicListener struct {
	*connlimit.Listener
	scheme string
}

// listen opens the public listener, with TLS when a certificate is configured, and hands the certificates to files.
func (s *Settings) listen(server *server, files *reloader) (*publicListener, error) {
	m, scheme := server.shared, "http"
	options := connlimit.Options{
		Limit:       s.MaxConnections,
		Exempt:      func(a netip.Addr) bool { return classOf(a) == classCodat },
		HeaderLines: maxHeaderLines,
		HeaderBytes: maxHeaderBytes,

		OnOpen:           m.connections.Inc,
		OnClose:          m.connections.Dec,
		OnDrop:           m.dropped.Inc,
		OnIncomplete:     server.incomplete,
		OnHandshakeError: server.handshakeFailed,
	}
	if s.TLSCert != "" {
		certificates := s.certificates()
		if _, err := certificates.Load(); err != nil {
			return nil, process.Misconfigured(err)
		}
		m.setCertificateEnd(certificates.Leaf().NotAfter)
		files.certificates = certificates
		options.TLS, scheme = certificates.Config(), "https"
	}
	tcp, err := process.Listen("--listen", s.Listen)
	if err != nil {
		return nil, err
	}
	limit := connlimit.Listen(tcp, options)
	server.budgets[classPublic].drop = limit.DropReceiving
	return &publicListener{limit, scheme}, nil
}

// route adds a handler for each source to the server. They store events with the publisher that it returns.
func (s *Settings) route(server *server, sources []*source, nc *nats.Conn) (*stream.Publisher, error) {
	window := 0
	for _, src := range sources {
		window += numClasses * src.MaxInFlight
	}
	publisher, err := stream.NewPublisher(nc, stream.PublisherOptions{Window: window})
	if err != nil {
		return nil, err
	}
	for _, src := range sources {
		src.handler = server.handle(routeOptions{
			Source: src.Name, Keys: src.verifier, Store: publisher, Timeout: s.PublishTimeout,
			Path: src.Path, Allow: src.allow, Credentials: src.credentials, ClientIDs: src.ClientIDs,
			MaxBody: int64(src.MaxBody), MaxInFlight: src.MaxInFlight, UnverifiedRate: *src.UnprovenRate,
		})
		src.handler.metrics.setKeys(src.fingerprints)
	}
	return publisher, nil
}

func addChecks(health *process.Health, nc *nats.Conn, js jetstream.JetStream, sources []*source, files *reloader) {
	health.Add("files", files.check)
	health.Add("broker", func(context.Context) error {
		if !nc.IsConnected() {
			return fmt.Errorf("not connected to NATS: %s", nc.Status())
		}
		return nil
	})
	health.Add("stream", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		return checkStreams(ctx, js, sources)
	})
}

// checkStreams returns an error when the events of no source can be stored, and a warning when those of some sources
// cannot: an ingress that is not ready because of one Codat instance would refuse the events of all others.
func checkStreams(ctx context.Context, js jetstream.JetStream, sources []*source) error {
	problems := make([]error, len(sources))
	var wg sync.WaitGroup
	for i, src := range sources {
		wg.Go(func() {
			if problems[i] = src.Name.Check(ctx, js, int64(src.MaxBody)); problems[i] == nil {
				problems[i] = src.handler.health.check(time.Now())
			}
		})
	}
	wg.Wait()
	err := errors.Join(problems...)
	if slices.Contains(problems, nil) {
		return process.Warning(err)
	}
	return err
}

// restoreLastEventTime sets the metric of the last accepted event to the time of the last message in the stream, so that
// a restart does not hide how long no event has come. It retries until the stream answers or ctx ends.
func restoreLastEventTime(ctx context.Context, js jetstream.JetStream, src *source) {
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = 10 * time.Second
	// The only error is that of ctx.
	_, _ = backoff.Retry(ctx, func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		st, err := js.Stream(ctx, src.Name.Stream())
		if err == nil && !st.CachedInfo().State.LastTime.IsZero() {
			src.handler.metrics.setLastAccepted(st.CachedInfo().State.LastTime)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(0))
}

// serve serves the handler on ln until ctx ends, and then drains.
func serve(ctx context.Context, s *Settings, p *process.Process, handler *server, ln *publicListener) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: s.ReadHeaderTimeout,
		ReadTimeout:       s.ReadTimeout,
		WriteTimeout:      s.PublishTimeout + s.ReadTimeout,
		IdleTimeout:       s.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          stdlog.New(handler, "", 0),

		DisableGeneralOptionsHandler: true, // it answers OPTIONS * with 200
	}
	ln.Attach(server)
	// One sender gains nothing from HTTP/2, whose streams would need limits of their own.
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}

	p.Health.Drain()
	handler.drain()
	wait := time.NewTimer(s.DrainDelay)
	defer wait.Stop()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s while draining: %w", ln.Addr(), err)
	case <-wait.C:
	}

	// No request takes longer than the sender waits.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), senderTimeout)
	defer cancel()
	err := server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests still in flight after %s: %w", senderTimeout, err), server.Close())
	} else {
		handler.diagnosing.Wait() // their log lines; no request begins another
	}
	<-ended
	return err
}
