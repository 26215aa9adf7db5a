// Package embedded runs a NATS server with JetStream inside the process: for headgate dev and for tests, never for
// production. A server that Start returned has its port, its folder to itself, and acknowledges nothing that is not on
// disk, unless it was told to be lazy.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

const (
	// MaxPayload is the largest message that the server takes: twice what Codat's sender sends, and room for headers.
	MaxPayload = 2 << 20
	// DefaultMaxStore bounds what all streams together may reserve and fill. It is a bound, not space that is taken.
	DefaultMaxStore = 16 << 30

	maxMemory   = 64 << 20 // nothing of ours is kept in memory only
	readyWithin = time.Minute
	lockFile    = "headgate.lock"
	storeDir    = "nats"
)

// Options say how the server runs. Dir is needed.
type Options struct {
	Dir      string      // keeps the state; made with mode 0700 if it is not there
	Listen   string      // host:port, port 0 for any; "127.0.0.1:0" if empty
	LazySync bool        // do not wait for the disk: an acknowledged message survives a killed process, not a power cut
	MaxStore int64       // bytes; DefaultMaxStore if 0
	Log      *zap.Logger // gets the server's warnings and errors; nil for none
}

// Server is a running server.
type Server struct {
	ns   *server.Server
	lock *flock.Flock
	addr string
}

// Start starts a server and returns when it takes connections. It refuses a folder that another process uses, and an
// address that is taken, at once and in words.
func Start(o Options) (_ *Server, err error) {
	host, port, err := split(o.Listen)
	if err != nil {
		return nil, err
	}
	if o.Dir == "" {
		return nil, errors.New("the embedded NATS server needs a folder for its state")
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	// The server itself would start happily on the folder of another.
	lock := flock.New(filepath.Join(o.Dir, lockFile))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock the data folder %s: %w", o.Dir, err)
	}
	if !locked {
		return nil, fmt.Errorf("the data folder %s is used by another process: stop that one, or choose another folder", o.Dir)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Unlock())
		}
	}()
	if err := free(host, port); err != nil {
		return nil, err
	}

	maxStore := o.MaxStore
	if maxStore == 0 {
		maxStore = DefaultMaxStore
	}
	ns, err := server.NewServer(&server.Options{
		ServerName:             "headgate",
		Host:                   host,
		Port:                   port,
		NoSigs:                 true, // else it would end the process at a signal, before anything was drained
		NoLog:                  o.Log == nil,
		MaxPayload:             MaxPayload,
		JetStream:              true,
		StoreDir:               filepath.Join(o.Dir, storeDir),
		JetStreamMaxMemory:     maxMemory,
		JetStreamMaxStore:      maxStore,
		SyncAlways:             !o.LazySync,
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	log := newLogger(o.Log)
	ns.SetLoggerV2(log, false, false, false)

	s := &Server{ns: ns, lock: lock}
	ns.Start()
	if err := s.ready(log); err != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, fmt.Errorf("embedded NATS server on %s: %w", net.JoinHostPort(host, strconv.Itoa(port)), err)
	}
	s.addr = ns.Addr().String()
	return s, nil
}

// ready waits until the server takes connections, or says what keeps it from that.
func (s *Server) ready(log *logger) error {
	done := make(chan bool, 1)
	go func() { done <- s.ns.ReadyForConnections(readyWithin) }()
	select {
	case err := <-log.fatal:
		s.ns.Shutdown()
		<-done
		return err
	case ok := <-done:
		if !ok {
			return fmt.Errorf("not ready after %v", readyWithin)
		}
		if !s.ns.JetStreamEnabled() {
			return errors.New("JetStream did not start")
		}
		return nil
	}
}

// Addr is the host and port at which the server listens.
func (s *Server) Addr() string { return s.addr }

// ClientURL is the address for clients, nats://host:port.
func (s *Server) ClientURL() string { return "nats://" + s.addr }

// Conn connects inside the process, without the network.
func (s *Server) Conn(opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect("", append(opts, nats.InProcessServer(s.ns))...)
}

// Shutdown stops the server, waits until its files are closed and gives the folder free. Calling it again does nothing.
func (s *Server) Shutdown() error {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
	return s.lock.Unlock()
}

func split(listen string) (host string, port int, err error) {
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	host, p, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("the NATS address %q: it must be host:port, as 127.0.0.1:4222", listen)
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("the NATS address %q: %q is not a port", listen, p)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// free asks for the port and gives it back: the server would report a port that is taken only by not becoming ready.
func free(host string, port int) error {
	if port == server.RANDOM_PORT {
		return nil
	}
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return fmt.Errorf("NATS cannot listen on %s: port %d is taken or not allowed: stop what uses it, or choose another: %w", addr, port, err)
	}
	return l.Close()
}

// logger gives warnings and errors of the server to zap, and drops the rest.
type logger struct {
	log    *zap.Logger
	fatal  chan error
	fatals atomic.Bool
}

func newLogger(log *zap.Logger) *logger {
	if log == nil {
		log = zap.NewNop()
	}
	return &logger{log: log.Named("nats"), fatal: make(chan error, 1)}
}

func (l *logger) Noticef(string, ...any) {}
func (l *logger) Debugf(string, ...any)  {}
func (l *logger) Tracef(string, ...any)  {}

func (l *logger) Warnf(format string, v ...any)  { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l *logger) Errorf(format string, v ...any) { l.log.Error(fmt.Sprintf(format, v...)) }

// Fatalf is what the server says when it cannot go on. It would end the process with its own logger.
func (l *logger) Fatalf(format string, v ...any) {
	err := fmt.Errorf(format, v...)
	l.log.Error(err.Error())
	if l.fatals.CompareAndSwap(false, true) {
		l.fatal <- err
	}
}
