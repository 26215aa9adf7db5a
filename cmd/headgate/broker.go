package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// broker is how a command reaches the streams of a source.
type broker struct {
	stream.NATS    `embed:""`
	Source         stream.Source `name:"source" default:"codat" help:"Name of the Codat instance whose streams are meant."`
	ConnectTimeout time.Duration `name:"connect-timeout" default:"5s" help:"Time to reach NATS."`
}

// check reports a setting that cannot be meant.
func (b broker) check() error {
	if err := b.Source.Validate(); err != nil {
		return fmt.Errorf("--source: %w", err)
	}
	if b.ConnectTimeout <= 0 {
		return fmt.Errorf("--connect-timeout: %s is no time: give 5s", b.ConnectTimeout)
	}
	return nil
}

// link is a connection to the streams of a source. Close it.
type link struct {
	jetstream.JetStream
	nc     *nats.Conn
	source stream.Source
}

// connect gives up soon: a person waits. What happens to the connection later is said on t.err.
func (b broker) connect(ctx context.Context, t *terminal) (*link, error) {
	if err := b.check(); err != nil {
		return nil, process.Misconfigured(err)
	}
	log, err := process.Settings{LogLevel: "warn", LogFormat: "console"}.Logger(t.err)
	if err != nil {
		return nil, err
	}
	nc, err := stream.Connect(ctx, b.NATS, "headgate", log)
	if err != nil {
		return nil, process.Misconfigured(err)
	}
	waiting, cancel := context.WithTimeout(ctx, b.ConnectTimeout)
	defer cancel()
	if err := stream.Connected(waiting, nc); err != nil {
		why := nc.LastError()
		nc.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, unreachable(b.NATSURL, why)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &link{JetStream: js, nc: nc, source: b.Source}, nil
}

// unreachable says in words why there is no connection; why may be nil.
func unreachable(address string, why error) error {
	switch {
	case errors.Is(why, nats.ErrAuthorization), errors.Is(why, nats.ErrAuthExpired):
		return fmt.Errorf("NATS at %s refuses this user: check --nats-creds (NATS_CREDS) or --nats-nkey (NATS_NKEY): %w", withoutUser(address), why)
	case why != nil:
		return fmt.Errorf("cannot reach NATS at %s: is it running? set --nats-url or NATS_URL: %w", withoutUser(address), why)
	}
	return fmt.Errorf("cannot reach NATS at %s: is it running? set --nats-url or NATS_URL", withoutUser(address))
}

// close sends what was not sent yet, such as acks, and closes the connection.
func (l *link) close() {
	_ = l.nc.FlushTimeout(flushTimeout) // without a server there is nobody to send it to
	l.nc.Close()
}

const flushTimeout = 2 * time.Second

// publisher is a publisher on the connection. Close it first.
func (l *link) publisher() (*stream.Publisher, error) {
	return stream.NewPublisher(l.nc, stream.PublisherOptions{Window: 16})
}

// publishTimeout bounds one publish, which else tries for ever.
const publishTimeout = 10 * time.Second

// deed is what an operator did, as it is kept on the operator subject. It names what was chosen and counts what
// happened; no key and no payload is in it.
type deed struct {
	At      time.Time `json:"at"`
	Host    string    `json:"host"`
	User    string    `json:"user"`
	Command string    `json:"command"`
	// Step is "begin" before anything is done and "end" afterwards. A begin without an end was broken off.
	Step    string         `json:"step"`
	Redrive string         `json:"redrive,omitempty"`
	Chosen  map[string]any `json:"chosen,omitempty"`
	Count   int            `json:"count"`
	Given   int            `json:"given"`
	Before  int            `json:"given_before,omitempty"`
	Error   string         `json:"error,omitempty"`
}

// record keeps a deed. It is kept also when ctx has ended meanwhile.
func (l *link) record(ctx context.Context, p *stream.Publisher, d deed) error {
	d.At = time.Now().UTC()
	d.Host, _ = os.Hostname() // "" says as much as the error
	d.User = operator()
	body, err := encode(d)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	_, err = p.Publish(ctx, &nats.Msg{
		Subject: l.source.OperatorSubject(),
		Header:  nats.Header{jetstream.MsgIDHeader: {nuid.Next()}, stream.HeaderContentType: {"application/json"}},
		Data:    body,
	})
	if err != nil {
		return fmt.Errorf("write down what the operator does: %w", err)
	}
	return nil
}

func operator() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return os.Getenv("USER")
}

// withoutUser is an address as it can be shown: without the user and password that may be in it.
func withoutUser(addresses string) string {
	list := strings.Split(addresses, ",")
	for i, a := range list {
		a = strings.TrimSpace(a)
		if u, err := url.Parse(a); err == nil && u.User != nil {
			u.User = nil
			a = u.String()
		} else if _, host, ok := strings.Cut(a, "@"); ok {
			a = host
		}
		list[i] = a
	}
	return strings.Join(list, ",")
}
