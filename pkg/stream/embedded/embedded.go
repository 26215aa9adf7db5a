// Package embedded runs a NATS server with JetStream inside the process, for headgate serve, headgate dev and tests. A server
// that Start returned listens on its port and has its folder for itself. It acknowledges a message when the message is on disk,
// unless Options.LazySync is set.
package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/zap"
)

const (
	// MaxPayload is the largest message in bytes that the server takes.
	MaxPayload = 2 << 20
	// DefaultMaxStore bounds the bytes that all streams together may reserve. It takes no space by itself.
	DefaultMaxStore = 16 << 30

	maxMemory   = 64 << 20 // no stream of Headgate is in memory only
	readyWithin = time.Minute
	lockFile    = "headgate.lock"
	storeDir    = "nats"
	keyFile     = "nkey"
)

// Options say how the server runs. Dir is required.
type Options struct {
	Dir      string      // keeps the state; made with mode 0700 if it is not there
	Listen   string      // host:port, port 0 for any; "127.0.0.1:0" if empty
	LazySync bool        // do not wait for the disk: an acknowledged message survives a killed process, not a power cut
	MaxStore int64       // bytes; DefaultMaxStore if 0
	Users    []string    // public nkeys of the users that may connect, beside Server.NKey; if empty, every client may
	Log      *zap.Logger // gets the server's warnings and errors; may be nil
}

// Server is a running server.
type Server struct {
	ns   *server.Server
	lock *flock.Flock
	addr string
	nkey string
}

// Start starts a server and returns when it takes connections. It fails at once for a folder that another process uses
// and for an address that is taken.
func Start(o Options) (_ *Server, err error) {
	host, port, err := split(o.Listen)
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Unlock())
		}
	}()
	if err := checkPort(host, port); err != nil {
		return nil, err
	}
	users, nkey, err := o.users()
	if err != nil {
		return nil, err
	}
	ns, err := server.NewServer(&server.Options{
		ServerName:             "headgate",
		Host:                   host,
		Port:                   port,
		NoSigs:                 true, // the process handles its signals: it drains before the server stops
		NoLog:                  o.Log == nil,
		MaxPayload:             MaxPayload,
		JetStream:              true,
		StoreDir:               filepath.Join(o.Dir, storeDir),
		JetStreamMaxMemory:     maxMemory,
		JetStreamMaxStore:      cmp.Or(o.MaxStore, DefaultMaxStore),
		SyncAlways:             !o.LazySync,
		Nkeys:                  users,
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	log := newLogger(o.Log)
	ns.SetLoggerV2(log, false, false, false)

	s := &Server{ns: ns, lock: lock, nkey: nkey}
	ns.Start()
	if err := s.ready(log); err != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, fmt.Errorf("embedded NATS server on %s: %w", net.JoinHostPort(host, strconv.Itoa(port)), err)
	}
	s.addr = ns.Addr().String()
	return s, nil
}

// users returns the users of the server, and the file with the seed of one of its own, which is new at each start. It
// returns nil and "" without Options.Users.
func (o Options) users() (users []*server.NkeyUser, file string, err error) {
	if len(o.Users) == 0 {
		return nil, "", nil
	}
	own, err := nkeys.CreateUser()
	if err != nil {
		return nil, "", fmt.Errorf("make a key: %w", err)
	}
	seed, err := own.Seed()
	if err != nil {
		return nil, "", fmt.Errorf("make a key: %w", err)
	}
	public, err := own.PublicKey()
	if err != nil {
		return nil, "", fmt.Errorf("make a key: %w", err)
	}
	file = filepath.Join(o.Dir, keyFile)
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) { // its mode could be another
		return nil, "", fmt.Errorf("replace the key of the process: %w", err)
	}
	if err := os.WriteFile(file, append(seed, '\n'), 0o600); err != nil {
		return nil, "", fmt.Errorf("write the key of the process: %w", err)
	}
	for _, key := range append([]string{public}, o.Users...) {
		users = append(users, &server.NkeyUser{Nkey: key})
	}
	return users, file, nil
}

// lockDir makes the folder and locks it. The server itself would start on the folder of another server.
func lockDir(dir string) (*flock.Flock, error) {
	if dir == "" {
		return nil, errors.New("the embedded NATS server needs a folder for its state")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	lock := flock.New(LockFile(dir))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock the data folder %s: %w", dir, err)
	}
	if !locked {
		return nil, fmt.Errorf("the data folder %s is used by another process: stop that process, or choose another folder", dir)
	}
	return lock, nil
}

// ready waits until the server takes connections. The error says why it does not.
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

// NKey is the file in the folder with the seed of a user that may connect, until the server starts again. It is empty
// without Options.Users.
func (s *Server) NKey() string { return s.nkey }

// LockFile is the file in dir that a running server has locked.
func LockFile(dir string) string { return filepath.Join(dir, lockFile) }

// Conn connects inside the process, without the network. With Options.Users it needs the key of one.
func (s *Server) Conn(opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect("", append(opts, nats.InProcessServer(s.ns))...)
}

// Shutdown stops the server, waits until its files are closed and unlocks the folder. A second call does nothing.
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

// checkPort listens on the port for a moment: the server would report a port that is taken only by not becoming ready.
func checkPort(host string, port int) error {
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

// logger writes warnings and errors of the server to zap, and drops everything else.
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

// Fatalf reports that the server cannot go on. The logger of the server would end the process.
func (l *logger) Fatalf(format string, v ...any) {
	err := fmt.Errorf(format, v...)
	l.log.Error(err.Error())
	if l.fatals.CompareAndSwap(false, true) {
		l.fatal <- err
	}
}
