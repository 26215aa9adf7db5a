package stream_test

import (
	"cmp"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

func TestOpen_ReadsBackWhatMessageWrote(t *testing.T) {
	t.Parallel()
	plain := rapid.StringMatching(`[ -~\t]{0,40}`)       // what a header can hold as it is
	encoded := rapid.StringOfN(rapid.Rune(), 0, 40, 160) // what is percent-encoded, 480 bytes at most
	id := rapid.StringMatching(`[!-~]{1,40}`)
	dates := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(1, 1<<36).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds")).UTC()
	})
	maybe := rapid.OneOf(rapid.Just(time.Time{}), dates)
	rapid.Check(t, func(t *rapid.T) {
		want := stream.Stored{
			ID: id.Draw(t, "id"), Timestamp: plain.Draw(t, "timestamp"), Signature: plain.Draw(t, "signature"),
			MsgID: rapid.OneOf(rapid.Just(""), id).Draw(t, "message id"),
			Head: codat.Head{
				Type: rapid.StringMatching(`[a-zA-Z0-9_-]{1,12}(\.[a-zA-Z0-9_-]{1,12}){0,3}`).Draw(t, "type"), Company: encoded.Draw(t, "company"),
				Connection: encoded.Draw(t, "connection"), PushOperation: encoded.Draw(t, "push operation"), Generated: maybe.Draw(t, "generated"),
			},
			Received: maybe.Draw(t, "received"), ContentType: plain.Draw(t, "content type"), ContentEncoding: plain.Draw(t, "content encoding"),
			TraceParent: plain.Draw(t, "trace parent"), Quarantine: rapid.OneOf(rapid.Just(""), encoded).Draw(t, "quarantine"),
		}
		if want.Quarantine != "" { // a type that no subject has
			want.Head.Type = encoded.Draw(t, "quarantined type")
		}
		m, err := codatSource.Message(want, nil)
		if err != nil {
			t.Fatal(err)
		}
		want.MsgID, want.Sequence = cmp.Or(want.MsgID, want.ID), 7
		got := codatSource.OpenRaw(&jetstream.RawStreamMsg{Subject: m.Subject, Header: m.Header, Sequence: 7})
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Fatalf("Open(Message()) differs (-want +got):\n%s", diff)
		}
	})
}

func TestOpen_OfAMessageFromAnotherPublisher(t *testing.T) {
	t.Parallel()
	stored := time.Unix(1700000000, 0).UTC()
	for _, tt := range []struct {
		name    string
		subject string
		header  nats.Header
		want    stream.Stored
	}{
		{"no headers", "codat.events.a.b", nil, stream.Stored{ID: "sequence-7-cwyvpelgpse8", Head: codat.Head{Type: "a.b"}, Received: stored, Sequence: 7}},
		{
			"a copy knows the place of its event", "codat.redrive.w.a.b",
			nats.Header{"headgate-sequence": {"3"}, "headgate-redrive": {"r1"}},
			stream.Stored{ID: "sequence-3", Head: codat.Head{Type: "a.b"}, Received: stored, Sequence: 3, Redrive: "r1"},
		},
		{
			"unreadable headers are as if absent", "codat.events.t",
			nats.Header{"webhook-id": {"msg_1"}, "headgate-sequence": {"-1"}, "ce-time": {"now"}, "ce-receivedtime": {"yesterday"}},
			stream.Stored{ID: "msg_1", Head: codat.Head{Type: "t"}, Received: stored, Sequence: 7},
		},
		{
			"the subject tells the type", "codat.events.t",
			nats.Header{"webhook-id": {"msg_1"}, "ce-type": {"other"}},
			stream.Stored{ID: "msg_1", Head: codat.Head{Type: "t"}, Received: stored, Sequence: 7},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := codatSource.OpenRaw(&jetstream.RawStreamMsg{Subject: tt.subject, Header: tt.header, Sequence: 7, Time: stored})
			if diff := gocmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Open() differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOpen_LeavesWhatIsNotAnEncoding(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{"100%": "100%", "%zz": "%zz", "%2": "%2", "%c3%A9": "é", "%%20": "% "} {
		m := &jetstream.RawStreamMsg{Subject: "codat.events.t", Header: nats.Header{"ce-subject": {value}}}
		if got := codatSource.OpenRaw(m).Head.Company; got != want {
			t.Errorf("Open() of %q = %q; want %q", value, got, want)
		}
	}
}
