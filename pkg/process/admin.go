package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// An Admin is an admin listener that serves until it is closed.
type Admin struct {
	server *http.Server
	ln     net.Listener
	served sync.WaitGroup
	other  atomic.Pointer[http.Handler]
}

// ServeAdmin listens on address and answers /livez (200 while the process lives), /readyz (200 when it is ready, and
// 503 when it is not; the text names every check) and /metrics. It serves when it returns. The error for a port in use
// names the port.
func (p *Process) ServeAdmin(address string) (*Admin, error) {
	ln, err := Listen("--admin-listen", address)
	if err != nil {
		return nil, err
	}
	a := &Admin{ln: ln}
	a.server = &http.Server{
		Handler:           p.adminHandler(a.serveOther),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          zap.NewStdLog(p.Log),
	}
	a.served.Go(func() {
		if err := a.server.Serve(ln); err != http.ErrServerClosed {
			p.Log.Error("admin listener", zap.Error(err))
		}
	})
	p.Log.Info("admin listener", zap.String("address", a.Addr()))
	return a, nil
}

// Handle has h answer the requests to all other paths, which are answered 404 without it.
func (a *Admin) Handle(h http.Handler) { a.other.Store(&h) }

func (a *Admin) serveOther(w http.ResponseWriter, r *http.Request) {
	if h := a.other.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	http.NotFound(w, r)
}

// Addr returns the address of the listener, with the port that the system chose for port 0.
func (a *Admin) Addr() string { return a.ln.Addr().String() }

// Close stops listening and waits up to two seconds for requests in progress.
func (a *Admin) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := a.server.Shutdown(ctx)
	if err != nil {
		err = a.server.Close()
	}
	a.served.Wait()
	return err
}

func (p *Process) adminHandler(other http.HandlerFunc) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "alive")
	})
	mux.HandleFunc("GET /readyz", p.Health.serveReadyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.Gatherer, promhttp.HandlerOpts{
		ErrorLog:            zap.NewStdLog(p.Log),
		MaxRequestsInFlight: 4,
		Timeout:             20 * time.Second,
	}))
	mux.HandleFunc("/", other)
	return mux
}

func (h *Health) serveReadyz(w http.ResponseWriter, _ *http.Request) {
	status, verdict := http.StatusOK, "ready"
	var detail bytes.Buffer
	for _, r := range h.check() {
		if r.err == nil {
			fmt.Fprintf(&detail, "ok    %s\n", r.name)
			continue
		}
		mark := "WARN"
		if !isWarning(r.err) {
			mark, status, verdict = "FAIL", http.StatusServiceUnavailable, "not ready"
		}
		fmt.Fprintf(&detail, "%s  %s: %s\n", mark, r.name, strings.ReplaceAll(redact(r.err.Error()), "\n", "; "))
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintf(Printable{w}, "%s\n%s", verdict, detail.String())
}

// Listen listens on a TCP address. flag is the flag that set it; an error names it, and the port when it is in use.
func Listen(flag, address string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		_, port, _ := net.SplitHostPort(address)
		return nil, fmt.Errorf("port %s is in use: stop the process that listens on %s, or set another address with %s", port, address, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return ln, nil
}
