package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
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
	keys, err := s.Keys()
	if err != nil {
		return process.Misconfigured(err)
	}
	ln, err := process.Listen("--listen", s.Listen)
	if err != nil {
		return err
	}
	defer ln.Close() // a second time, when it served

	nc, err := stream.Connect(ctx, s.NATS, p.Name, p.Log)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	publisher, err := stream.NewPublisher(nc, stream.PublisherOptions{Window: s.MaxInFlight})
	if err != nil {
		return err
	}
	defer publisher.Close()
	verifier := signature.NewVerifier(s.Tolerance, nil, keys...)
	addChecks(s, p.Health, nc, js, verifier)

	var provisioning sync.WaitGroup
	defer provisioning.Wait()
	if s.Provision {
		provisioning.Go(func() { provision(ctx, js, s.Source, p.Log) })
	}

	receiver := &Receiver{Source: s.Source, Keys: verifier, Store: publisher, Budget: s.PublishTimeout}
	door := NewDoor(receiver, s.Path, int64(s.MaxBody), s.MaxInFlight, p.Log, NewMetrics(p.Metrics, s.Source))
	p.Log.Info("public listener", zap.Stringer("address", ln.Addr()), zap.String("path", s.Path),
		zap.String("source", string(s.Source)), zap.Strings("keys", verifier.Keys()))
	return serve(ctx, s, p, door, ln)
}

func addChecks(s *Settings, health *process.Health, nc *nats.Conn, js jetstream.JetStream, verifier *signature.Verifier) {
	health.Add("keys", func(context.Context) error {
		if len(verifier.Keys()) == 0 {
			return errors.New("none: every request is refused")
		}
		return nil
	})
	health.Add("broker", func(context.Context) error {
		if !nc.IsConnected() {
			return fmt.Errorf("not connected to NATS: %s", nc.Status())
		}
		return nil
	})
	health.Add("stream", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		return s.Source.Check(ctx, js, int64(s.MaxBody))
	})
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
func serve(ctx context.Context, s *Settings, p *process.Process, door *Door, ln net.Listener) error {
	server := &http.Server{
		Handler:           door,
		ReadHeaderTimeout: s.ReadHeaderTimeout,
		ReadTimeout:       s.ReadTimeout,
		WriteTimeout:      s.PublishTimeout + s.ReadTimeout,
		IdleTimeout:       s.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          zap.NewStdLog(p.Log),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}

	p.Health.Drain()
	door.Drain()
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
