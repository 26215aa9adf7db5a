package connections

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// storeAt returns a store of a server through the address of a client.
func storeAt(t *testing.T, url string) (Store, *nats.Conn) {
	t.Helper()
	nc, err := nats.Connect(url, nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := js.KeyValue(t.Context(), streamtest.Source.StateBucket(state.ConnectionsName))
	if err != nil {
		t.Fatal(err)
	}
	return Store{bucket}, nc
}

// Many processes write one record at once. None of their events fails.
func TestStore_ContentionIsNoFailure(t *testing.T) {
	t.Parallel()
	const writers = 32
	s := streamtest.New(t, Worker(Store{}).Spec())
	store, _ := storeAt(t, s.URL)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	errs := make([]error, writers)
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			errs[i] = store.add(ctx, "company", "connection", dated("connection.connected", codat.Linked, noon.Add(time.Duration(i)*time.Second)))
		})
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("event %d: %v", i, err)
		}
	}
	records, err := state.OpenConnections(ctx, s.JS, streamtest.Source)
	if err != nil {
		t.Fatal(err)
	}
	record, err := records.Get(ctx, "company", "connection")
	if last := noon.Add((writers - 1) * time.Second); err != nil || !record.Dated.Generated.Equal(last) || len(record.Unchanged) != writers-1 {
		t.Errorf("the newest fact of %+v is not of %s: %v", record, last, err)
	}
}

// The answer to a request is lost, and the connection comes back. The request is sent again long before the handler's time
// is over.
func TestStore_SendsARequestAgainWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, Worker(Store{}).Spec())
	proxy := streamtest.NewProxy(t, strings.TrimPrefix(s.URL, "nats://"))
	store, _ := storeAt(t, proxy.URL())
	asked, err := s.NC.SubscribeSync("$JS.API.DIRECT.GET.KV_" + streamtest.Source.StateBucket(state.ConnectionsName) + ".>")
	if err == nil {
		err = s.NC.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	proxy.Mute()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- store.add(ctx, "company", "connection", dated("connection.connected", codat.Linked, noon))
	}()
	if _, err := asked.NextMsg(time.Minute); err != nil {
		t.Fatal(err)
	}
	proxy.Heal()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * time.Minute):
		t.Error("the handler still waits for the answer that was lost")
	}
}

// A fact is written once: it comes again when the answer to its write was lost.
func TestStore_WritesAFactOnce(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, Worker(Store{}).Spec())
	store, _ := storeAt(t, s.URL)
	for range 3 {
		if err := store.add(t.Context(), "company", "connection", dated("connection.connected", codat.Linked, noon)); err != nil {
			t.Fatal(err)
		}
	}
	bucket, err := s.JS.Stream(t.Context(), "KV_"+streamtest.Source.StateBucket(state.ConnectionsName))
	if err != nil {
		t.Fatal(err)
	}
	if got := bucket.CachedInfo().State.LastSeq; got != 1 {
		t.Errorf("%d writes; want 1", got)
	}
}

func TestWorker_KeyIsTheConnection(t *testing.T) {
	for _, tt := range []struct{ company, connection, want string }{
		{"company", "connection", "company.connection"}, {"company", "", "company"}, {"", "", ""},
	} {
		e := codat.Event[struct{}]{Company: tt.company, Connection: tt.connection}
		if got := Worker(Store{}).Key(e); got != tt.want {
			t.Errorf("the key of %s is %q; want %q", fmt.Sprint(tt), got, tt.want)
		}
	}
}
