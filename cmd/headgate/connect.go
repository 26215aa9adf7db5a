package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// connectFlags are the flags of commands that connect to NATS.
type connectFlags struct {
	stream.NATS    `embed:""`
	Source         stream.Source `name:"source" default:"codat" help:"Name of the Codat instance, which names the streams."`
	ConnectTimeout time.Duration `name:"connect-timeout" default:"5s" help:"Time limit for connecting to NATS."`
}

// check returns an error for a setting that cannot be used.
func (f connectFlags) check() error {
	if err := f.Source.Validate(); err != nil {
		return fmt.Errorf("--source: %w", err)
	}
	if f.ConnectTimeout <= 0 {
		return fmt.Errorf("--connect-timeout must be greater than 0s (got %s)", f.ConnectTimeout)
	}
	return nil
}

// client is a connection to NATS for one source. Close it.
type client struct {
	jetstream.JetStream
	nc     *nats.Conn
	source stream.Source
	closed func(last error) // close calls it with the last error of the connection
}

// connect connects as "headgate", the operator's name, within the time limit. Later events of the connection are logged on
// t.err.
func (f connectFlags) connect(ctx context.Context, t *terminal) (*client, error) {
	return f.connectAs(ctx, t, "headgate")
}

// asOperator connects, and does something as an operator of the source.
func (f connectFlags) asOperator(ctx context.Context, t *terminal, do func(*operator.Operator, *client) error) error {
	return f.as(ctx, t, "headgate", do)
}

// asAdmin connects as the role that may delete, and does something to the source.
func (f connectFlags) asAdmin(ctx context.Context, t *terminal, do func(*operator.Operator, *client) error) error {
	return f.as(ctx, t, "admin", func(o *operator.Operator, nc *client) error {
		// The user of another role learns at once that it is the wrong one, and not after the time limit of a request.
		asking, cancel := context.WithTimeout(ctx, flushTimeout)
		_, _ = nc.AccountInfo(asking) // when no server answers, the next request says so
		cancel()
		if err := stream.PermissionError(nc.nc, "$JS.API."); err != nil {
			return err
		}
		return do(o, nc)
	})
}

func (f connectFlags) as(ctx context.Context, t *terminal, name string, do func(*operator.Operator, *client) error) error {
	nc, err := f.connectAs(ctx, t, name)
	if err != nil {
		return err
	}
	defer nc.close()
	o, err := operator.New(nc, nc.source)
	if err != nil {
		return err
	}
	defer o.Close()
	return do(o, nc)
}

// connectAs connects like connect, under a name that its user's inbox has too.
func (f connectFlags) connectAs(ctx context.Context, t *terminal, name string) (*client, error) {
	if err := f.check(); err != nil {
		return nil, process.Misconfigured(err)
	}
	t.role = roleOf(name)
	log, err := process.Settings{LogLevel: "warn", LogFormat: "console"}.Logger(t.err)
	if err != nil {
		return nil, err
	}
	nc, err := stream.Connect(ctx, f.NATS, name, log)
	if err != nil {
		return nil, process.Misconfigured(err)
	}
	waiting, cancel := context.WithTimeout(ctx, f.ConnectTimeout)
	defer cancel()
	if err := stream.Connected(waiting, nc); err != nil {
		why := nc.LastError()
		nc.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if refused := stream.Refused(f.NATS, name); refused != nil {
			why = refused
		}
		return nil, unreachable(f.NATSURL, why)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &client{js, nc, f.Source, t.connectionClosed}, nil
}

// roleOf returns the role that connects under a name.
func roleOf(name string) string {
	if name == "headgate" {
		return "operator"
	}
	return name
}

// unreachable says why there is no connection, and the cure; why may be nil.
func unreachable(address string, why error) error {
	switch {
	case errors.Is(why, nats.ErrAuthorization), errors.Is(why, nats.ErrAuthExpired):
		return fmt.Errorf("NATS at %s refused this user: check --nats-creds (NATS_CREDS) or --nats-nkey (NATS_NKEY): %w", withoutUser(address), why)
	case why != nil:
		return fmt.Errorf("%w at %s: is it running? set --nats-url or NATS_URL: %w", errNotReached, withoutUser(address), why)
	}
	return fmt.Errorf("%w at %s: is it running? set --nats-url or NATS_URL", errNotReached, withoutUser(address))
}

// close flushes and closes the connection.
func (c *client) close() {
	_ = c.nc.FlushTimeout(flushTimeout) // it fails without a server
	c.closed(c.nc.LastError())
	c.nc.Close()
}

const flushTimeout = 2 * time.Second

// withoutUser returns addresses without the users and passwords in them.
func withoutUser(addresses string) string {
	list := strings.Split(addresses, ",")
	for i, a := range list {
		a = strings.TrimSpace(a)
		if u, err := url.Parse(a); err == nil && u.User != nil {
			u.User = nil
			a = u.String()
		} else if at := strings.LastIndex(a, "@"); at >= 0 {
			a = a[at+1:]
		}
		list[i] = a
	}
	return strings.Join(list, ",")
}
