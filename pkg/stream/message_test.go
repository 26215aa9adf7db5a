package stream_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

var received = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("", 3600))

func TestMessage_HasSubjectAndHeaders(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		stored  stream.Stored
		subject string
		header  nats.Header
	}{
		{
			"an event with all that can be known",
			stream.Stored{
				ID: "msg_1", Timestamp: "1700000000", Signature: "v1,YQ== v1,Yg==",
				Head: codat.Head{
					Type: "invoices.write.successful", Company: "c-1", Connection: "k-1", PushOperation: "p-1",
					Generated: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC),
				},
				Received: received, ContentType: "application/json; charset=utf-8", ContentEncoding: "gzip", TraceParent: "00-ab-cd-01",
			},
			"codat.events.invoices.write.successful",
			nats.Header{
				"Nats-Msg-Id": {"msg_1"}, "webhook-id": {"msg_1"}, "webhook-timestamp": {"1700000000"}, "webhook-signature": {"v1,YQ== v1,Yg=="},
				"ce-specversion": {"1.0"}, "ce-id": {"msg_1"}, "ce-source": {"/headgate/codat"}, "ce-type": {"invoices.write.successful"},
				"ce-time": {"2026-03-01T10:00:00Z"}, "ce-subject": {"c-1"}, "ce-connectionid": {"k-1"}, "ce-pushoperationkey": {"p-1"}, "ce-receivedtime": {"2026-03-01T11:00:00.123456789Z"},
				"content-type": {"application/json; charset=utf-8"}, "content-encoding": {"gzip"}, "traceparent": {"00-ab-cd-01"},
			},
		},
		{
			"an event of which little is known",
			stream.Stored{ID: "msg_1", Head: codat.Head{Type: "new.type"}},
			"codat.events.new.type",
			nats.Header{
				"Nats-Msg-Id": {"msg_1"}, "webhook-id": {"msg_1"}, "ce-specversion": {"1.0"}, "ce-id": {"msg_1"},
				"ce-source": {"/headgate/codat"}, "ce-type": {"new.type"},
			},
		},
		{
			"what cannot be read, under an id of its own",
			stream.Stored{ID: "msg.1", MsgID: "sha256-00", Quarantine: "the id is not one"},
			"codat.quarantine",
			nats.Header{
				"Nats-Msg-Id": {"sha256-00"}, "webhook-id": {"msg.1"}, "ce-specversion": {"1.0"}, "ce-id": {"msg.1"},
				"ce-source": {"/headgate/codat"}, "headgate-quarantine-reason": {"the%20id%20is%20not%20one"},
			},
		},
		{
			"a type that is no subject goes to the quarantine with its name",
			stream.Stored{ID: "msg_1", Head: codat.Head{Type: "two words"}, Quarantine: "type"},
			"codat.quarantine",
			nats.Header{
				"Nats-Msg-Id": {"msg_1"}, "webhook-id": {"msg_1"}, "ce-specversion": {"1.0"}, "ce-id": {"msg_1"},
				"ce-source": {"/headgate/codat"}, "ce-type": {"two%20words"}, "headgate-quarantine-reason": {"type"},
			},
		},
		{
			"ids with any characters are encoded",
			stream.Stored{ID: "msg_1", Head: codat.Head{Type: "t", Company: `100% "é` + "\r\n", Connection: "~!#"}},
			"codat.events.t",
			nats.Header{
				"Nats-Msg-Id": {"msg_1"}, "webhook-id": {"msg_1"}, "ce-specversion": {"1.0"}, "ce-id": {"msg_1"},
				"ce-source": {"/headgate/codat"}, "ce-type": {"t"}, "ce-subject": {"100%25%20%22%C3%A9%0D%0A"}, "ce-connectionid": {"~!#"},
			},
		},
		{
			"what is too long or cannot be a header is absent",
			stream.Stored{
				ID: "msg_1", Timestamp: "1\n2", Signature: strings.Repeat("s", 8<<10+1),
				Head:        codat.Head{Type: "t", Company: strings.Repeat("c", 513), Connection: strings.Repeat("é", 100)},
				ContentType: strings.Repeat("t", 513), TraceParent: "a\rb",
			},
			"codat.events.t",
			nats.Header{
				"Nats-Msg-Id": {"msg_1"}, "webhook-id": {"msg_1"}, "ce-specversion": {"1.0"}, "ce-id": {"msg_1"},
				"ce-source": {"/headgate/codat"}, "ce-type": {"t"},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := []byte("{}")
			m, err := codatSource.Message(tt.stored, body)
			if err != nil {
				t.Fatalf("Message() = %v", err)
			}
			if m.Subject != tt.subject {
				t.Errorf("Message() subject = %q; want %q", m.Subject, tt.subject)
			}
			if diff := cmp.Diff(tt.header, m.Header); diff != "" {
				t.Errorf("Message() headers differ (-want +got):\n%s", diff)
			}
			if &m.Data[0] != &body[0] {
				t.Error("Message() copied the body")
			}
		})
	}
}

func TestMessage_Refuses(t *testing.T) {
	t.Parallel()
	if _, err := codatSource.Message(stream.Stored{ID: "msg_1", Head: codat.Head{Type: "two words"}}, nil); !errors.Is(err, codat.ErrBadType) {
		t.Errorf("Message() of a type that is no subject = %v; want ErrBadType", err)
	}
	if _, err := codatSource.Message(stream.Stored{Head: codat.Head{Type: "t"}}, nil); err == nil {
		t.Error("Message() without an id = nil; want it refused")
	}
	if _, err := codatSource.Message(stream.Stored{ID: strings.Repeat("m", 513), Quarantine: "long"}, nil); err == nil {
		t.Error("Message() with an id that is too long to know it again by = nil; want it refused")
	}
}

// What is stored comes back to the byte, body and headers.
func TestMessage_IsStoredUnchanged(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	p := publisher(t, s.NC, stream.PublisherOptions{})
	body := make([]byte, 256)
	for i := range body {
		body[i] = byte(i)
	}
	m, err := codatSource.Message(stream.Stored{
		ID: "id with\ttab, \xc3\xa9 and \xff", MsgID: "sha256-00", Timestamp: "1", Signature: "v1,YQ==", Quarantine: "it is not JSON: é",
		Head: codat.Head{Type: "t", Company: "c/1 é%"}, Received: received,
	}, body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(within(t, patience), m); err != nil {
		t.Fatal(err)
	}
	each(t, s.JS, "CODAT", func(got jetstream.Msg) {
		if string(got.Data()) != string(body) {
			t.Errorf("stored body = %q; want %q", got.Data(), body)
		}
		if diff := cmp.Diff(m.Header, got.Headers()); diff != "" {
			t.Errorf("stored headers differ (-want +got):\n%s", diff)
		}
		e := codatSource.Open(got)
		if e.Head.Company != "c/1 é%" || e.ID != "id with\ttab, \xc3\xa9 and \xff" || e.Quarantine != "it is not JSON: é" || e.Head.Connection != "" {
			t.Errorf("Open() = %+v; want what was stored", e)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add("company.created", "c-1", "k-1", "msg_1")
	f.Add("t", "\x00", "%", `"`)
	f.Fuzz(func(t *testing.T, typ, company, connection, id string) {
		m, err := codatSource.Message(stream.Stored{ID: id, MsgID: "id", Head: codat.Head{Type: typ, Company: company, Connection: connection}, Quarantine: "q"}, nil)
		if err != nil {
			t.Fatalf("Message() into the quarantine = %v", err)
		}
		for _, name := range slices.Sorted(maps.Keys(m.Header)) {
			if strings.ContainsAny(m.Header.Get(name), "\r\n\x00") {
				t.Errorf("header %s = %q; want no line ends", name, m.Header.Get(name))
			}
		}
		head := codatSource.OpenRaw(&jetstream.RawStreamMsg{Subject: m.Subject, Header: m.Header}).Head
		for name, values := range map[string][2]string{"ce-type": {typ, head.Type}, "ce-subject": {company, head.Company}, "ce-connectionid": {connection, head.Connection}} {
			if want, got := values[0], values[1]; got != want && m.Header.Get(name) != "" {
				t.Errorf("%s is read back as %q; want %q", name, got, want)
			}
		}
	})
}

func BenchmarkMessage(b *testing.B) {
	e := stream.Stored{
		ID: "msg_2b5e0d0c5b6a4f1c9d1e", Timestamp: "1700000000", Signature: "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
		Head:     codat.Head{Type: "invoices.write.successful", Company: "8a210b68-6988-11ed-a1eb-0242ac120002", Connection: "8a210b68-6988-11ed-a1eb-0242ac120002", Generated: received},
		Received: received, ContentType: "application/json",
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := codatSource.Message(e, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func TestStored_Encoded(t *testing.T) {
	t.Parallel()
	for encoding, want := range map[string]bool{
		"": false, "identity": false, "IDENTITY": false, "identity, identity": false, " , ": false,
		"gzip": true, "identity, gzip": true, "x-identity": true,
	} {
		if got := (stream.Stored{ContentEncoding: encoding}).Encoded(); got != want {
			t.Errorf("Encoded of %q = %t; want %t", encoding, got, want)
		}
	}
}
