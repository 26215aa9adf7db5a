//go:build faults

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// streams is the folder of the streams in the folder of a server.
const streams = "nats/jetstream/*/streams"

// newDamagedBroker returns a server on which a worker has handled done_1 and not done_2, and that has started with a bit of a
// file of stream CODAT flipped, in the first byte of a member's name, and the worker. kept is a copy of the server's folder from before.
func newDamagedBroker(t *testing.T, handled chan codat.Event[codat.Company], file, member string) (r *broker, w func() (stop func()), provision func(), kept string) {
	worker := bookkeeper(handled)
	worker.Begin = stream.BeginNew()
	r = newBroker(t, worker.Spec())
	w = func() func() { return r.work(worker) }
	provision = func() {
		streamtest.Provision(t, r.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{worker.Spec()}})
	}
	r.event("company.created", "done_1")
	stop := w()
	r.idle(worker.Name)
	stop()
	r.event("company.created", "done_2")
	r.whileStopped(func() {
		kept = filepath.Join(t.TempDir(), "kept")
		if err := os.CopyFS(kept, os.DirFS(r.Dir())); err != nil {
			t.Fatal(err)
		}
		found, err := filepath.Glob(filepath.Join(r.Dir(), streams, "CODAT", file))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s is there %d times (%v); want once", file, len(found), err)
		}
		content, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(content, []byte(`"`+member+`":`))
		if at < 0 {
			t.Fatalf("%s has no member %s", file, member)
		}
		content[at+1] ^= 1
		if err := os.WriteFile(found[0], content, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	return r, w, provision, kept
}

// whileStopped calls change between a stop and a start of the server.
func (r *broker) whileStopped(change func()) {
	r.Helper()
	before := r.NC.Stats().Reconnects
	r.Stop()
	change()
	r.Start()
	streamtest.Wait(r, func() bool { return r.NC.Stats().Reconnects > before && r.NC.IsConnected() }, "the client is connected again")
}

// The runbook "A server says that nothing is provisioned", step 2: the stream's meta.inf is damaged.
func TestFaults_RunbookOfAStreamWithDamagedMetadata(t *testing.T) {
	handled := make(chan codat.Event[codat.Company], 9)
	r, work, _, kept := newDamagedBroker(t, handled, "meta.inf", "retention")
	if out := r.audit(1).err.String(); !strings.Contains(out, "run headgate provision") {
		t.Errorf("headgate audit says %q; want that nothing is provisioned", out)
	}
	r.whileStopped(func() {
		if err := os.RemoveAll(r.Dir()); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(r.Dir(), os.DirFS(kept)); err != nil {
			t.Fatal(err)
		}
	})
	stop := work()
	r.idle("bookkeeper")
	stop()
	contains(t, r.audit(0).out.String(), "bookkeeper: 2 events: 2 done")
	wantHandledOnce(t, handled)
}

// The same, step 3: the consumer's meta.inf is damaged. What waited is handled, and what was done is not handled again.
func TestFaults_RunbookOfAConsumerWithDamagedMetadata(t *testing.T) {
	handled := make(chan codat.Event[codat.Company], 9)
	r, work, provision, _ := newDamagedBroker(t, handled, "obs/bookkeeper/meta.inf", "ack_policy")
	if out := r.headgate(1, "provision").err.String(); !strings.Contains(out, `unsupported consumer "bookkeeper"`) {
		t.Errorf("headgate provision says %q; want the consumer that stops the stream", out)
	}
	r.whileStopped(func() {
		found, err := filepath.Glob(filepath.Join(r.Dir(), streams, "CODAT/obs/bookkeeper"))
		if err != nil || len(found) != 1 {
			t.Fatalf("the consumer has %d folders (%v); want one", len(found), err)
		}
		if err := os.RemoveAll(found[0]); err != nil {
			t.Fatal(err)
		}
	})
	provision()
	stop := work()
	r.idle("bookkeeper")
	stop()
	contains(t, r.audit(0).out.String(), "bookkeeper: 2 events: 2 done")
	wantHandledOnce(t, handled)
}

// wantHandledOnce checks that done_1 and done_2 were handled once.
func wantHandledOnce(t *testing.T, handled chan codat.Event[codat.Company]) {
	t.Helper()
	times := map[string]int{}
	for len(handled) > 0 {
		times[(<-handled).WebhookID]++
	}
	if len(times) != 2 || times["done_1"] != 1 || times["done_2"] != 1 {
		t.Errorf("handled %v; want done_1 and done_2 once", times)
	}
}
