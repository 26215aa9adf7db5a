package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/embedded"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers/connections"
)

// bare is a server on which nothing is provisioned.
func bare(t *testing.T) (url string, js jetstream.JetStream) {
	t.Helper()
	server, err := embedded.Start(embedded.Options{Dir: t.TempDir(), LazySync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Shutdown() })
	nc, err := server.Conn(nats.Name("test"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	return server.ClientURL(), js
}

func TestProvision_MakesObjectsOfBuiltinWorkers(t *testing.T) {
	t.Parallel()
	url, js := bare(t)
	c := headgate(t, 1, "provision", "--dry-run", "--nats-url", url)
	contains(t, c.out.String(), "create stream CODAT\n", "create bucket CODAT_connections\n", "create consumer connections on CODAT\n", "max bytes: 2GiB")
	contains(t, c.err.String(), "objects differ")
	if _, err := js.Stream(t.Context(), "CODAT"); err == nil {
		t.Fatal("the dry run made the stream")
	}

	c = headgate(t, 0, "provision", "--max-bytes", "64MiB", "--nats-url", url)
	contains(t, c.err.String(), "0 updated, 0 unchanged")
	if _, _, err := stream.Bind(t.Context(), js, source, connections.Worker(connections.Store{}).Spec()); err != nil {
		t.Errorf("Bind = %v", err)
	}
	st, err := js.Stream(t.Context(), "CODAT")
	if err != nil || st.CachedInfo().Config.MaxBytes != 64<<20 {
		t.Errorf("the stream has room for %d bytes, %v; want 64 MiB", st.CachedInfo().Config.MaxBytes, err)
	}

	// What an operator has set stays, and all is as it should be.
	c = headgate(t, 0, "provision", "--dry-run", "--nats-url", url)
	contains(t, c.err.String(), "0 created, 0 updated")
	c = headgate(t, 0, "provision", "--max-bytes", "128MiB", "--nats-url", url)
	contains(t, c.out.String(), "max bytes: 64MiB -> 128MiB")

	// Records of writes are kept for 90 days and those of reads for 180, unless an operator says otherwise; those of connections
	// for ever.
	c = headgate(t, 0, "provision", "--state-max-age", "writes=4320h", "--nats-url", url)
	contains(t, c.out.String(), "update bucket CODAT_writes\n", "max age: 90d -> 180d")
	c = headgate(t, 0, "provision", "--state-max-age", "writes=0s", "--nats-url", url)
	contains(t, c.out.String(), "max age: 180d -> 0s")
	c = headgate(t, 2, "provision", "--state-max-age", "invoices=4320h", "--nats-url", url)
	contains(t, c.err.String(), `no worker writes a state "invoices"`)
	for bucket, want := range map[string]time.Duration{"KV_CODAT_writes": 0, "KV_CODAT_connections": 0, "KV_CODAT_reads": 180 * 24 * time.Hour} {
		if st, err := js.Stream(t.Context(), bucket); err != nil || st.CachedInfo().Config.MaxAge != want {
			t.Errorf("%s keeps its records %v, %v; want %v", bucket, st.CachedInfo().Config.MaxAge, err, want)
		}
	}
}

func TestProvision_RefusesToLoseEvents(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	r.event("company.created", "msg_1")
	streamtest.Wait(t, func() bool { return time.Since(r.message(source.Stream(), 1).Time) > time.Second }, "the event is a second old")
	c := r.headgate(1, "provision", "--max-age", "1s", "--json")
	changes := decode[change](t, c.out.lines())
	i := slices.IndexFunc(changes, func(c change) bool { return c.Object == "stream CODAT" })
	if i < 0 || changes[i].Action != stream.Refuse || len(changes[i].Notes) == 0 || len(changes[i].Fields) == 0 {
		t.Errorf("it prints %s; want the stream refused, with a reason", &c.out)
	}
	contains(t, c.err.String(), "refused")
	c = r.headgate(0, "provision", "--max-age", "1s", "--allow-loss")
	contains(t, c.out.String(), "update stream CODAT")
}

func TestProvision_IsRecorded(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	r.headgate(0, "provision")
	r.headgate(0, "provision") // changes nothing
	r.headgate(0, "provision", "--dry-run")
	d := r.records()
	if len(d) != 1 || d[0].Command != "provision" || d[0].Count == 0 {
		t.Errorf("the records are %+v; want one", d)
	}
}

func TestWorkers_ListsRunningProcesses(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	if c := r.headgate(0, "workers"); c.out.String() != "" {
		t.Errorf("without workers it prints %q", c.out.String())
	}
	bucket, err := r.JS.KeyValue(t.Context(), source.WorkersBucket())
	if err != nil {
		t.Fatal(err)
	}
	for key, entry := range map[string]string{
		"connections.one": `{"worker":"connections","instance":"one","host":"pod-1","version":"v1.2.3","seen":"2026-01-02T03:04:05Z"}`,
		"writes.two":      `{"worker":"writes","instance":"two","host":"pod-2","version":"v1.2.3","paused":"2026-01-02T03:04:05Z","seen":"2026-01-02T03:04:05Z"}`,
	} {
		if _, err := bucket.PutString(t.Context(), key, entry); err != nil {
			t.Fatal(err)
		}
	}
	c := r.headgate(0, "workers")
	lines := c.out.lines()
	slices.Sort(lines)
	if len(lines) != 2 {
		t.Fatalf("it prints %q; want two lines", lines)
	}
	contains(t, lines[0], "connections\tone\tpod-1\tv1.2.3\trunning\t-\t")
	contains(t, lines[1], "writes\ttwo\tpod-2\tv1.2.3\tpaused\t2026-01-02T03:04:05Z\t")
	contains(t, c.err.String(), "2 running workers")
	if got := r.headgate(0, "workers", "--worker", "writes", "-o", "id").out.String(); got != "writes\n" {
		t.Errorf("the worker writes is %q", got)
	}
	if got := r.headgate(0, "workers", "--json").out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, `"host":"pod-2"`) {
		t.Errorf("for programs it prints %s", got)
	}
}
