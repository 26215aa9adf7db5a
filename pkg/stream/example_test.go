package stream_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/embedded"
)

// A service books every write that succeeded. Restarted, it goes on where it was ended; several replicas share the
// events.
func ExampleSubscribe() {
	ctx, stop := context.WithCancel(context.Background()) // a service: signal.NotifyContext
	defer stop()
	address, end := codatWithOneWrite(ctx)
	defer end()

	nc, err := stream.Connect(ctx, stream.NATS{NATSURL: address}, "billing", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}

	book := func(_ context.Context, e codat.Event[codat.Write]) error {
		fmt.Printf("%s: %s is written\n", e.WebhookID, e.Payload.PushOperationKey())
		stop() // a service goes on
		return nil
	}
	billing := stream.Subscription{Durable: "billing", Begin: stream.BeginAll()}
	if err := stream.Subscribe(ctx, js, codat.AnyWriteSuccessful, billing, book); err != nil {
		log.Fatal(err)
	}
	// Output: msg_1: push-1 is written
}

// codatWithOneWrite is a server with the streams of Headgate and one event.
func codatWithOneWrite(ctx context.Context) (address string, end func()) {
	dir, err := os.MkdirTemp("", "headgate")
	if err != nil {
		log.Fatal(err)
	}
	srv, err := embedded.Start(embedded.Options{Dir: dir, LazySync: true})
	if err != nil {
		log.Fatal(err)
	}
	nc, err := srv.Conn()
	if err != nil {
		log.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := stream.Provision(ctx, js, stream.Layout{Source: "codat"}, false); err != nil {
		log.Fatal(err)
	}
	head := codat.Head{Type: "invoices.write.successful"}
	m, err := stream.Source("codat").Message(stream.Stored{ID: "msg_1", Head: head}, []byte(`{"payload":{"id":"push-1"}}`))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := js.PublishMsg(ctx, m); err != nil {
		log.Fatal(err)
	}
	return srv.ClientURL(), func() {
		nc.Close()
		_ = srv.Shutdown()
		_ = os.RemoveAll(dir)
	}
}
