package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// checkTimeout is less than a health check has, so that the stream's own words come through.
const checkTimeout = 1500 * time.Millisecond

// Run receives until ctx ends. Then it is not ready, goes on for the drain delay, finishes what is in
// flight, and closes what it opened. It does not wait for NATS: until the stream can be written, it is
// not ready, and answers 503.
func Run(ctx context.Context, s *Settings, p *process.Process) error {
	if err := s.Validate(); err != nil {
		return process.Misconfigured(err)
	}
	sources, err := s.open()
	if err != nil {
		return process.Misconfigured(err)
	}
	proxies, err := parseNetworks(s.Proxies)
	if err != nil {
		return process.Misconfigured(err)
	}
	ln, err := process.Listen("--listen", s.Listen)
	if err != nil {
		return err
	}
	defer ln.Close() // a second time, when it served
	front := NewFront(FrontOptions{
		Proxies:            proxies,
		ClientCertificates: s.TLSClientCA != "",
		MaxBytes:           int64(s.MaxBytes),
		LogAccepted:        s.LogAccepted,
		Traces:             p.Traces,
	}, p.Log, p.Metrics)
	keep := &keeper{sources: sources, metrics: front.shared, log: p.Log}
	scheme := "http"
	crowd := newCrowd(ln, s.MaxConnections, front.shared, p.Log)
	ln = crowd
	if s.TLSCert != "" {
		scheme, keep.certificates = "https", s.certificates()
		if _, err := keep.certificates.load(); err != nil {
			return process.Misconfigured(err)
		}
		front.shared.certificateEnds(keep.certificates.leaf().NotAfter)
		ln = tls.NewListener(ln, keep.certificates.config())
	}

	nc, err := stream.Connect(ctx, s.NATS, p.Name, p.Log)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	window := 0
	for _, src := range sources {
		window += len(front.rooms) * src.MaxInFlight
	}
	publisher, err := stream.NewPublisher(nc, stream.PublisherOptions{Window: window})
	if err != nil {
		return err
	}
	defer publisher.Close()

	for _, src := range sources {
		src.receiver = &Receiver{Source: src.Name, Keys: src.verifier, Store: publisher, Budget: s.PublishTimeout}
		src.metrics = front.open(src.receiver, DoorOptions{
			Path: src.Path, Allow: src.allow, Credentials: src.credentials, ClientIDs: src.ClientIDs,
			MaxBody: int64(src.MaxBody), MaxInFlight: src.MaxInFlight, UnprovenRate: *src.UnprovenRate,
		})
		src.metrics.setKeys(src.fingerprints)
	}
	addChecks(p.Health, nc, js, sources, keep)

	// Whoever waits for these has closed nothing yet that they need.
	var beside sync.WaitGroup
	defer beside.Wait()
	besides, end := context.WithCancel(ctx)
	defer end()
	beside.Go(func() { keep.run(besides) })
	for _, src := range sources {
		if s.Provision {
			beside.Go(func() { provision(besides, js, src.Name, p.Log) })
		}
		beside.Go(func() { recall(besides, js, src) })
		p.Log.Info("public listener", zap.Stringer("address", ln.Addr()), zap.String("scheme", scheme), zap.String("path", src.Path),
			zap.String("source", string(src.Name)), zap.Strings("keys", src.fingerprints), zap.Int("authorizations", src.credentials.count()))
	}
	return serve(ctx, s, p, front, crowd, ln)
}

func addChecks(health *process.Health, nc *nats.Conn, js jetstream.JetStream, sources []*source, keep *keeper) {
	health.Add("files", keep.check)
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

// checkStreams is an error when no source can be stored, and a warning when some cannot: an ingress that is taken out
// of service for the stream of one Codat instance would refuse all others.
func checkStreams(ctx context.Context, js jetstream.JetStream, sources []*source) error {
	problems := make([]error, len(sources))
	var wg sync.WaitGroup
	for i, src := range sources {
		wg.Go(func() {
			if problems[i] = src.Name.Check(ctx, js, int64(src.MaxBody)); problems[i] == nil {
				problems[i] = src.receiver.mayStore(time.Now())
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

// recall looks when the source's last event came, so that a silence is as long after a start as it was before. It tries
// until there is a stream to ask, or ctx ends.
func recall(ctx context.Context, js jetstream.JetStream, src *source) {
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = 10 * time.Second
	// It ends with ctx only, and then nobody asks any more.
	_, _ = backoff.Retry(ctx, func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		st, err := js.Stream(ctx, src.Name.Stream())
		if err == nil && !st.CachedInfo().State.LastTime.IsZero() {
			src.metrics.accepted(st.CachedInfo().State.LastTime)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(0))
}

// provision makes what the source needs, and tries until it has or ctx ends. What is refused is for
// an operator to decide: the log has it, and the stream works as it is.
func provision(ctx context.Context, js jetstream.JetStream, source stream.Source, log *zap.Logger) {
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = 10 * time.Second
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		changes, err := stream.Provision(ctx, js, stream.Plan{Source: source}, false)
		for _, change := range changes {
			if change.Action != stream.Same {
				log.Info("provisioned", zap.Stringer("change", change))
			}
		}
		if errors.Is(err, stream.ErrRefused) {
			log.Warn("provision", zap.Error(err))
			err = nil
		}
		return struct{}{}, err
	}, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, after time.Duration) {
		log.Warn("provision", zap.Error(err), zap.Duration("again_in", after))
	}))
	if err != nil && ctx.Err() == nil {
		log.Error("provision", zap.Error(err))
	}
}

// serve serves the door on ln until ctx ends, and then drains.
func serve(ctx context.Context, s *Settings, p *process.Process, front *Front, crowd *crowd, ln net.Listener) error {
	server := &http.Server{
		Handler:           front,
		ReadHeaderTimeout: s.ReadHeaderTimeout,
		ReadTimeout:       s.ReadTimeout,
		WriteTimeout:      s.PublishTimeout + s.ReadTimeout,
		IdleTimeout:       s.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          stdlog.New(connectionLog{front.shared, p.Log}, "", 0),

		DisableGeneralOptionsHandler: true, // it answers OPTIONS * with 200
	}
	crowd.watch(server)
	// Nothing to gain with one sender, and much to lose: streams within a connection have limits of their own.
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
	front.Drain()
	wait := time.NewTimer(s.DrainDelay)
	defer wait.Stop()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s while draining: %w", ln.Addr(), err)
	case <-wait.C:
	}

	// No request outlives the sender's patience, nor do we.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sender)
	defer cancel()
	err := server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests still in flight after %s: %w", sender, err), server.Close())
	}
	<-ended
	return err
}

// A connectionLog takes what net/http says of connections on which no request came to be.
type connectionLog struct {
	metrics *frontMetrics
	log     *zap.Logger
}

// Write writes one line.
func (c connectionLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if strings.Contains(text, "TLS handshake error") {
		c.metrics.handshakes.Inc()
	}
	c.log.Warn("connection", zap.String("error", clip(text)))
	return len(line), nil
}
