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

// Validate refuses settings with which no connection can be made: no address, files that cannot be read, a certificate
// without its key, two ways to log in.
func (s NATS) Validate() error {
	if strings.Trim(s.NATSURL, " ,") == "" {
		return errors.New("--nats-url (NATS_URL) is empty: set it to the address of the NATS server, as nats://127.0.0.1:4222")
	}
	for _, server := range strings.Split(s.NATSURL, ",") {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		var wrong *url.Error
		if _, err := url.Parse(server); errors.As(err, &wrong) {
			// Only the reason: the address may hold a password.
			return fmt.Errorf("--nats-url (NATS_URL) is not an address as nats://127.0.0.1:4222: %w", wrong.Err)
		}
	}
	if s.NATSCreds != "" && s.NATSNKey != "" {
		return errors.New("--nats-creds and --nats-nkey are both set: a user logs in with one of them")
	}
	if (s.NATSCert == "") != (s.NATSKey == "") {
		return errors.New("--nats-cert and --nats-key belong together: set both or none")
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

// Check is Validate that also reads what the files hold, as Connect and the login do. It connects to nothing, and what is
// in a file stays out of its error.
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

// Connect makes a connection for the process called name, a role such as "ingress" or the name of a worker: its inbox is
// under _INBOX_<name>, so that permissions can keep it private.
//
// It returns before a server was reached, and from then on connects again for ever, also when the server refuses the
// user, because secrets rotate. While it is not connected, what is published fails at once and is never sent later. What
// becomes of the connection, and every permission that is missing, goes to log; log may be nil. Connected waits for it.
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

// deafFor is how long a connection stays that may not hear answers. A server tells nobody who may now: only a new
// connection subscribes again.
const deafFor = 5 * time.Second

// connectTimeout is for one try to connect to one server. As with sendTimeout, a publish can return as much later than its
// end: nats.go keeps everybody waiting while it talks to a server that it has reached.
const connectTimeout = 1500 * time.Millisecond

func (s NATS) options(name string, log *zap.Logger) ([]nats.Option, error) {
	if name == "" || strings.ContainsAny(name, ".*> \t\r\n") {
		return nil, fmt.Errorf("connect to NATS: %q cannot be the name of a process: it becomes a token of a subject", name)
	}
	if log == nil {
		log = zap.NewNop()
	}
	log = log.Named("nats")
	var deaf atomic.Bool // to answers, until the connection is made anew
	opts := []nats.Option{
		nats.Name(name),
		nats.CustomInboxPrefix("_INBOX_" + name), // else every service could read every other's replies
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.ReconnectBufSize(-1),           // what was answered with an error is never sent afterwards
		nats.PingInterval(10 * time.Second), // a dead server is noticed in half a minute, not in four
		nats.MaxPingsOutstanding(2),
		nats.Timeout(connectTimeout),
		nats.SetCustomDialer(&gathering{net.Dialer{Timeout: connectTimeout}}),
		nats.DrainTimeout(25 * time.Second),
		nats.ErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
			fields := []zap.Field{zap.Error(err)}
			if sub != nil {
				fields = append(fields, zap.String("subject", sub.Subject))
			}
			if errors.Is(err, nats.ErrPermissionViolation) {
				log.Error("permission missing", fields...) // the error names the subject
				if isInbox(nc, err) && deaf.CompareAndSwap(false, true) {
					time.AfterFunc(deafFor, func() {
						deaf.Store(false)
						_ = nc.ForceReconnect() // it fails when it is closed or reconnects already
					})
				}
				return
			}
			log.Error("connection error", fields...)
		}),
		nats.ConnectHandler(func(nc *nats.Conn) {
			log.Info("connected", zap.String("server", nc.ConnectedUrlRedacted()))
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("connected again", zap.String("server", nc.ConnectedUrlRedacted()))
		}),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if err != nil {
				log.Warn("disconnected", zap.Error(err))
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			log.Debug("not connected yet", zap.Error(err))
		}),
		nats.LameDuckModeHandler(func(nc *nats.Conn) {
			log.Info("the server will stop soon", zap.String("server", nc.ConnectedUrlRedacted()))
		}),
		nats.ClosedHandler(func(nc *nats.Conn) {
			log.Info("connection closed")
		}),
	}
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

// Connected waits until the connection has a server, or says why it has none when ctx ends first.
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

// notConnected says what is known about why a connection has no server.
func notConnected(nc *nats.Conn) error {
	if err := nc.LastError(); err != nil {
		return fmt.Errorf("no server: %w", err)
	}
	return errors.New("no server answers: check --nats-url")
}
