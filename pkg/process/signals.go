package process

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"go.uber.org/zap"
)

// untilSignal returns a context that ends at the first SIGTERM or SIGINT. A second one ends the process at once, by
// os.Exit and not by the signal's default action, which the kernel does not apply to process 1 of a container.
func untilSignal(parent context.Context, log *zap.Logger) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		select {
		case s := <-signals:
			log.Info("stopping", zap.Stringer("signal", s))
			cancel()
		case <-done:
			return
		}
		select {
		case s := <-signals:
			log.Warn("stopped at once, by a second signal", zap.Stringer("signal", s))
			os.Exit(128 + int(s.(syscall.Signal)))
		case <-done:
		}
	})
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		wg.Wait()
		cancel()
	}
}
