// Command example is a service that keeps expenses in PostgreSQL and pushes each to an accounting platform: an account, and a
// direct cost that uses it. The two pushes are one write plan, which Headgate carries out; the service submits the plan and
// follows it. Of Headgate it imports what any service can: packages of pkg.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/headgate/headgate/pkg/stream"
)

//go:embed schema.sql
var schema string

func main() {
	// The defaults are those of headgate dev.
	listen := flag.String("listen", "127.0.0.1:8081", "address of the API")
	prefix := flag.String("js-api-prefix", jetstream.DefaultAPIPrefix, "prefix of JetStream's subjects: HEADGATE.API for a team of deploy/nats")
	var p pusher
	flag.StringVar((*string)(&p.source), "source", "codat", "name of the Codat instance at Headgate")
	flag.StringVar(&p.company, "company", "c0ffee00-0000-4000-8000-00000000000a", "company at Codat whose expenses these are")
	flag.StringVar(&p.connection, "connection", "ca5cade0-0000-4000-8000-00000000000a", "connection of the company to its accounting platform")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *prefix, p); err != nil {
		log.Fatal(err)
	}
}

// run serves the API and pushes expenses until ctx ends.
func run(ctx context.Context, listen, prefix string, p pusher) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, schema); err != nil {
		return fmt.Errorf("create the table: %w", err)
	}
	// The name is that of the account at NATS. It connects again for ever.
	nc, err := stream.Connect(ctx, stream.NATS{NATSURL: cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), NATSNKey: os.Getenv("NATS_NKEY")}, "expenses", nil)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.NewWithAPIPrefix(nc, prefix)
	if err != nil {
		return err
	}
	p.expenses, p.nc, p.js, p.wake = expenses{pool}, nc, js, make(chan struct{}, 1)

	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: newAPI(p.expenses, p.wake), ReadTimeout: 10 * time.Second}
	fmt.Printf("expenses are at http://%s/expenses\n", l.Addr())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Serve(l) })
	g.Go(func() error { return p.run(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return server.Shutdown(late)
	})
	if err := g.Wait(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
