package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/zap"
)

// NATS are the settings of the connection to NATS. Their environment variables are those that other NATS tools use.
type NATS struct {
	NATSURL   string `name:"nats-url"   env:"NATS_URL"   default:"nats://127.0.0.1:4222" help:"Address of the NATS server, or several, separated by commas."`
	NATSCreds string `name:"nats-creds" env:"NATS_CREDS" placeholder:"FILE" help:"File with the credentials of the NATS user."`
	NATSNKey  string `name:"nats-nkey"  env:"NATS_NKEY"  placeholder:"FILE" help:"File with the nkey seed of the NATS user."`
	NATSCA    string `name:"nats-ca"    env:"NATS_CA"    placeholder:"FILE" help:"File with the certificates that may have signed the server's (PEM)."`
	NATSCert  string `name:"nats-cert"  env:"NATS_CERT"  placeholder:"FILE" help:"File with the client certificate (PEM). Needs --nats-key."`
	NATSKey   string `name:"nats-key"   env:"NATS_KEY"   placeholder:"FILE" help:"File with the key of the client certificate (PEM). Needs --nats-cert."`
}

// Validate returns an error for settings with which no connection can be made: no address, a file that cannot be read, a
// certificate without its key, or two ways to log in.
func (s NATS) Validate() error {
	if strings.Trim(s.NATSURL, " ,") == "" {
		return errors.New("--nats-url (NATS_URL) is empty: set it to the address of the NATS server, as nats://127.0.0.1:4222")
	}
	for _, server := range strings.Split(s.NATSURL, ",") {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		// The parser's error is left out, because it may quote a part of the password.
		switch u, err := url.Parse(server); {
		case err != nil, u.Hostname() == "":
			return errors.New("--nats-url (NATS_URL) must be an address as nats://127.0.0.1:4222" + encodePassword)
		case u.RawQuery != "", u.ForceQuery, u.Fragment != "", strings.HasSuffix(server, "#"), strings.Trim(u.Path, "/") != "":
			return errors.New("--nats-url (NATS_URL) must end after host and port" + encodePassword)
		}
	}
	if s.NATSCreds != "" && s.NATSNKey != "" {
		return errors.New("--nats-creds and --nats-nkey are both set: a user logs in with one of them")
	}
	if (s.NATSCert == "") != (s.NATSKey == "") {
		return errors.New("--nats-cert and --nats-key belong together: set both or neither")
	}
	for _, f := range []struct{ flag, name string }{
		{"--nats-creds", s.NATSCreds},
		{"--nats-nkey", s.NATSNKey},
		{"--nats-ca", s.NATSCA},
		{"--nats-cert", s.NATSCert},
		{"--nats-key", s.NATSKey},
	} {
		if f.name == "" {
			continue
		}
		file, err := os.Open(f.name)
		if err != nil {
			return fmt.Errorf("%s: %w", f.flag, err)
		}
		if err := file.Close(); err != nil {
			return fmt.Errorf("%s: %w", f.flag, err)
		}
	}
	return nil
}

// encodePassword is the cure for a password that ends the address early.
const encodePassword = ": in a user or password, write / as %2F, # as %23, ? as %3F, @ as %40, a comma as %2C and % as %25"

// Check does what Validate does, and also reads the files as Connect and the login do. It opens no connection, and its
// error never quotes a file.
func (s NATS) Check() error {
	if err := s.Validate(); err != nil {
		return err
	}
	opts, err := s.options("check", nil)
	if err != nil {
		return err
	}
	o := nats.GetDefaultOptions()
	for _, set := range opts {
		if err := set(&o); err != nil {
			return fmt.Errorf("--nats-ca, --nats-cert or --nats-key: %w", err)
		}
	}
	if s.NATSCreds == "" {
		return nil
	}
	text, err := os.ReadFile(s.NATSCreds)
	if err != nil {
		return fmt.Errorf("--nats-creds: %w", err)
	}
	if token, err := nkeys.ParseDecoratedJWT(text); err != nil || strings.Count(token, ".") != 2 {
		return fmt.Errorf("--nats-creds: %s holds no JWT of a user", s.NATSCreds)
	}
	if _, err := nkeys.ParseDecoratedUserNKey(text); err != nil {
		return fmt.Errorf("--nats-creds: %s holds no nkey seed of a user", s.NATSCreds)
	}
	return nil
}

// Connect makes a connection for the process called name, a role such as "ingress" or the name of a worker. Its inbox is
// under _INBOX_<name>, so that permissions can keep it private.
//
// Connect returns before a server is reached; Connected waits for one. The connection reconnects for ever, also when the
// server refuses the user, because secrets rotate. While it is not connected, a publish fails at once and is never sent
// later. When JetStream has not answered for longer than an election takes and the connection knows other servers, it
// connects to another one. log gets the changes of the connection and every missing permission; it may be nil.
func Connect(ctx context.Context, s NATS, name string, log *zap.Logger) (*nats.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	opts, err := s.options(name, log)
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect(s.NATSURL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: check --nats-url and the files beside it: %w", err)
	}
	return nc, nil
}

// reconnectAfter is how long a connection stays that may not subscribe to its inbox. A server does not announce that the
// permission was given: only a new connection subscribes again.
const reconnectAfter = 5 * time.Second

// connectTimeout bounds one attempt to connect to one server. nats.go blocks publishes while it talks to a server that it
// has reached, so a publish can return this much after its deadline, as with sendTimeout.
const connectTimeout = 1500 * time.Millisecond

func (s NATS) options(name string, log *zap.Logger) ([]nats.Option, error) {
	if name == "" || strings.ContainsAny(name, ".*> \t\r\n") {
		return nil, fmt.Errorf("connect to NATS: %q cannot be the name of a process: it becomes a token of a subject", name)
	}
	if log == nil {
		log = zap.NewNop()
	}
	opts := []nats.Option{
		nats.Name(name),
		nats.CustomInboxPrefix("_INBOX_" + name), // so that permissions can keep the replies to it private
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.ReconnectBufSize(-1),           // a publish that returned an error is never sent later
		nats.PingInterval(10 * time.Second), // a dead server is noticed in half a minute, not in four
		nats.MaxPingsOutstanding(2),
		nats.Timeout(connectTimeout),
		nats.SetCustomDialer(&coalescingDialer{net.Dialer{Timeout: connectTimeout}, &leaver{log: log.Named("nats")}}),
		nats.DrainTimeout(25 * time.Second),
	}
	opts = append(opts, logOptions(log.Named("nats"))...)
	login, err := s.loginOptions()
	return append(opts, login...), err
}

// logOptions log what becomes of the connection, and make it new when it may not subscribe to its inbox.
func logOptions(log *zap.Logger) []nats.Option {
	var reconnecting atomic.Bool
	server := func(nc *nats.Conn) zap.Field { return zap.String("server", nc.ConnectedUrlRedacted()) }
	return []nats.Option{
		nats.ErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
			fields := []zap.Field{zap.Error(err)}
			if sub != nil {
				fields = append(fields, zap.String("subject", sub.Subject))
			}
			if !errors.Is(err, nats.ErrPermissionViolation) {
				log.Error("connection error", fields...)
				return
			}
			log.Error("permission missing", fields...) // the error names the subject
			if isInbox(nc, err) && reconnecting.CompareAndSwap(false, true) {
				time.AfterFunc(reconnectAfter, func() {
					reconnecting.Store(false)
					_ = nc.ForceReconnect() // it fails when the connection is closed or reconnects already
				})
			}
		}),
		nats.ConnectHandler(func(nc *nats.Conn) { log.Info("connected", server(nc)) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("connected again", server(nc)) }),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if err != nil {
				log.Warn("disconnected", zap.Error(err))
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { log.Debug("not connected yet", zap.Error(err)) }),
		nats.LameDuckModeHandler(func(nc *nats.Conn) { log.Info("the server will stop soon", server(nc)) }),
		nats.ClosedHandler(func(*nats.Conn) { log.Info("connection closed") }),
	}
}

// loginOptions are the credentials and certificates of the settings.
func (s NATS) loginOptions() ([]nats.Option, error) {
	var opts []nats.Option
	if s.NATSCreds != "" {
		opts = append(opts, nats.UserCredentials(s.NATSCreds))
	}
	if s.NATSNKey != "" {
		o, err := nats.NkeyOptionFromSeed(s.NATSNKey)
		if err != nil {
			return nil, fmt.Errorf("--nats-nkey: %s holds no nkey seed: %w", s.NATSNKey, err)
		}
		opts = append(opts, o)
	}
	if s.NATSCA != "" {
		opts = append(opts, nats.RootCAs(s.NATSCA))
	}
	if s.NATSCert != "" {
		opts = append(opts, nats.ClientCert(s.NATSCert, s.NATSKey))
	}
	return opts, nil
}

// Connected waits until the connection has a server. When ctx ends first, the error says why it has none.
func Connected(ctx context.Context, nc *nats.Conn) error {
	status := nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer nc.RemoveStatusListener(status)
	for {
		switch nc.Status() {
		case nats.CONNECTED:
			return nil
		case nats.CLOSED:
			return fmt.Errorf("connect to NATS: %w", nats.ErrConnectionClosed)
		}
		select {
		case <-status:
		case <-ctx.Done():
			return fmt.Errorf("connect to NATS: %w: %w", ctx.Err(), notConnected(nc))
		}
	}
}

// Refused connects to each server once, and returns the error with which one of them refuses the user, or nil. A connection
// forgets this error when it waits for its next try or another server does not answer. It takes 1.5 s for each server at most.
func Refused(s NATS, name string) error {
	opts, err := s.options(name, nil)
	if err != nil {
		return nil // Connect returns it
	}
	opts = append(opts, nats.RetryOnFailedConnect(false))
	for _, server := range strings.Split(s.NATSURL, ",") {
		nc, err := nats.Connect(strings.TrimSpace(server), opts...)
		if err == nil {
			nc.Close()
		}
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) {
			return err
		}
	}
	return nil
}

// NotConnected returns an error that says why nc has no server and wraps err, when err is that of nats.go for what is sent
// meanwhile (outbound buffer limit exceeded), and otherwise err.
func NotConnected(nc *nats.Conn, err error) error {
	if errors.Is(err, nats.ErrReconnectBufExceeded) {
		return &notConnectedError{notConnected(nc), err}
	}
	return err
}

type notConnectedError struct{ reason, err error }

func (e *notConnectedError) Error() string { return "not connected to NATS: " + e.reason.Error() }

func (e *notConnectedError) Unwrap() error { return e.err }

// notConnected is the reason, as far as it is known, why a connection has no server.
func notConnected(nc *nats.Conn) error {
	if err := nc.LastError(); err != nil {
		return fmt.Errorf("no server: %w", err)
	}
	return errors.New("no server answers: check --nats-url")
}
