package audit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// storeBodies stores an event with each body, and returns the sequence of the last one.
func storeBodies(t *testing.T, js jetstream.JetStream, bodies ...string) (last uint64) {
	t.Helper()
	for _, body := range bodies {
		m, err := source.Message(stream.Stored{ID: "id_" + body, Head: codat.Head{Type: "company.created"}, Received: time.Now()}, []byte(`{"body":"`+body+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		ack, err := js.PublishMsg(context.Background(), m)
		if err != nil {
			t.Fatal(err)
		}
		last = ack.Sequence
	}
	return last
}

// unreadable returns the exceptions of the kind.
func unreadable(report audit.Report) (found []audit.Exception) {
	for _, e := range report.Exceptions {
		if e.Kind == audit.Unreadable {
			e.Detail = ""
			found = append(found, e)
		}
	}
	return found
}

func runAudit(t *testing.T, js jetstream.JetStream) audit.Report {
	t.Helper()
	report, err := audit.Audit{JS: js, Source: source, Settle: 50 * time.Millisecond}.Run(t.Context())
	if err != nil {
		t.Fatalf("Run() = %v", err)
	}
	return report
}

// A consumer passes the message without a word, and so does a read of the stream.
func TestAudit_FindsFlippedBitOnOneServer(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	damaged := storeBodies(t, s.JS, "first", "damaged")
	storeBodies(t, s.JS, "last")
	if found := unreadable(runAudit(t, s.JS)); len(found) > 0 {
		t.Fatalf("before the damage the audit finds %+v", found)
	}
	s.Damage(source.Stream(), `{"body":"damaged"}`)
	report := runAudit(t, s.JS)
	want := []audit.Exception{{Kind: audit.Unreadable, Stream: source.Stream(), Server: s.NC.ConnectedServerName(), Sequence: damaged}}
	if found := unreadable(report); !slices.Equal(found, want) {
		t.Errorf("the audit finds %+v; want %+v", found, want)
	}
	if report.Copies.Messages != 2 || !slices.Equal(report.Copies.Servers, []string{s.NC.ConnectedServerName()}) {
		t.Errorf("the audit read %+v; want 2 messages of the server", report.Copies)
	}
}

// Without the length of a record the server finds none of those behind it in their block. In the last block it forgets their
// sequences too, and gives them to other messages.
func TestAudit_FindsDamagedLengthOnOneServer(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	storeBodies(t, s.JS, "first")
	last := storeBodies(t, s.JS, "damaged", "behind", "last")
	s.DamageLength(source.Stream(), `{"body":"damaged"}`)
	var want []audit.Exception
	for sequence := last - 2; sequence <= last; sequence++ {
		want = append(want, audit.Exception{Kind: audit.Unreadable, Stream: source.Stream(), Server: s.NC.ConnectedServerName(), Sequence: sequence})
	}
	for range 2 {
		if found := unreadable(runAudit(t, s.JS)); !slices.Equal(found, want) {
			t.Errorf("the audit finds %+v; want %+v", found, want)
		}
		if n := storeBodies(t, s.JS, fmt.Sprint("new", rand.Int())); n > last {
			t.Errorf("a message got sequence %d; want one of those that were lost", n)
		}
	}
}

// The same in a block behind which are others.
func TestAudit_FindsDamagedLengthInAnEarlierBlock(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	damaged := storeBodies(t, s.JS, "damaged")
	storeBlock(t, s.JS)
	s.DamageLength(source.Stream(), `{"body":"damaged"}`)
	for range 2 {
		if found := unreadable(runAudit(t, s.JS)); len(found) < 2 || found[0].Sequence != damaged {
			t.Errorf("the audit finds %+v; want sequence %d and those behind it", found, damaged)
		}
	}
}

// storeBlock stores events of more than 8 MiB, which is the size of a block.
func storeBlock(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	for i := range 10 {
		body := []byte(`{"body":"` + strings.Repeat("x", 900_000) + `"}`)
		m, err := source.Message(stream.Stored{ID: fmt.Sprint("large_", i), Head: codat.Head{Type: "company.created"}, Received: time.Now()}, body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
}

// What was deleted is no hole, and what is read while it is deleted either.
func TestAudit_DeletedIsNotUnreadable(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	deleted := storeBodies(t, s.JS, "first", "deleted")
	storeBodies(t, s.JS, "last")
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.DeleteMsg(t.Context(), deleted); err != nil {
		t.Fatal(err)
	}
	report := runAudit(t, s.JS)
	if len(report.Exceptions) > 0 || report.Copies.Deleted != 1 {
		t.Errorf("the audit finds %+v and %d deleted; want 1 deleted", report.Exceptions, report.Copies.Deleted)
	}
}
