package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const source = streamtest.Source

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func letter(worker, typ, id, company string) deadletter.Letter {
	h := nats.Header{jetstream.MsgIDHeader: {id}, stream.HeaderWebhookID: {id}, stream.HeaderWebhookSignature: {"v1,x"}}
	if company != "" {
		h.Set("ce-subject", company)
	}
	return deadletter.Letter{
		Worker: worker, Type: typ, WebhookID: id, Sequence: 7, Company: company,
		Cause: "attempts", FirstError: "first", LastError: "last", Attempts: 3,
		FirstAttempt: noon, LastAttempt: noon.Add(time.Minute), Host: "here",
		Header: h, Body: []byte("{ \"as\":\t\"it came\" }\n\x00\xff"),
	}
}

type archive struct {
	*streamtest.Server
	*stream.Publisher
}

func open(t *testing.T) archive {
	t.Helper()
	srv := streamtest.New(t)
	p, err := stream.NewPublisher(srv.NC, stream.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return archive{srv, p}
}

func (b archive) redriver() deadletter.Redriver {
	return deadletter.Redriver{JS: b.JS, Publisher: b, Source: source}
}

func (b archive) bury(t *testing.T, letters ...deadletter.Letter) {
	t.Helper()
	for _, l := range letters {
		if err := deadletter.Bury(context.Background(), b, source, l); err != nil {
			t.Fatalf("Bury(%s) = %v", l.WebhookID, err)
		}
	}
}

func (b archive) list(t *testing.T, f deadletter.Filter) []deadletter.Letter {
	t.Helper()
	var all []deadletter.Letter
	if err := deadletter.List(context.Background(), b.JS, source, f, func(l deadletter.Letter) error {
		all = append(all, l)
		return nil
	}); err != nil {
		t.Fatalf("List(%+v) = %v", f, err)
	}
	return all
}

func TestBury_IsReadBackByListAndGet(t *testing.T) {
	t.Parallel()
	b := open(t)
	want := letter("w", "bills.write.successful", "msg_1", "company-1")
	b.bury(t, want, want) // the second time is after a crash
	all := b.list(t, deadletter.Filter{})
	if len(all) != 1 {
		t.Fatalf("%d letters; want 1, however often it was buried", len(all))
	}
	ignored := cmpopts.IgnoreFields(deadletter.Letter{}, "Header", "Buried", "Number")
	if diff := cmp.Diff(want, all[0], ignored); diff != "" {
		t.Errorf("the letter listed (-want +got):\n%s", diff)
	}
	got, err := deadletter.Get(context.Background(), b.JS, source, all[0].Number)
	if diff := cmp.Diff(all[0], got, cmpopts.IgnoreFields(deadletter.Letter{}, "Header")); diff != "" || err != nil {
		t.Errorf("Get = %v (-listed +got):\n%s", err, diff)
	}
	if got.Header.Get(stream.HeaderWebhookSignature) != "v1,x" {
		t.Errorf("the letter's headers are %v; want the signature among them", got.Header)
	}
	if _, err := deadletter.Get(context.Background(), b.JS, source, 99); !errors.Is(err, deadletter.ErrNotFound) {
		t.Errorf("Get(99) = %v; want ErrNone", err)
	}
}

func TestBury_StoresALetterOfEachWorkerAndRedrive(t *testing.T) {
	t.Parallel()
	b := open(t)
	again := letter("w", "t", "msg_1", "")
	again.Redrive = "r1"
	again.Header.Set(stream.HeaderRedrive, "r1")
	b.bury(t, letter("w", "t", "msg_1", ""), letter("v", "t", "msg_1", ""), again)
	if all := b.list(t, deadletter.Filter{}); len(all) != 3 || all[2].Redrive != "r1" {
		t.Errorf("%d letters of one event; want one for each worker and redrive: %+v", len(all), all)
	}
}

// A parked event outlives the stream of the events: its worker can find it half buried after that stream's window.
func TestBury_StoresALetterOnceAlsoAfterTheWindowOfTheEvents(t *testing.T) {
	b := open(t)
	streamtest.Provision(t, b.JS, stream.Layout{Source: source, MaxAge: time.Second})
	l := letter("bookkeeper", "bills.write.successful", "msg_1", "")
	b.bury(t, l)
	event := &nats.Msg{Subject: "codat.events.bills.write.successful", Header: nats.Header{jetstream.MsgIDHeader: {"msg_1"}}}
	streamtest.Wait(t, func() bool { // the event stream knows the id for its window
		receipt, err := b.Publish(context.Background(), event)
		if err != nil {
			t.Fatal(err)
		}
		return receipt.Sequence > 1 && !receipt.Duplicate
	}, "the window of the events to be over")
	b.bury(t, l)
	if got := b.list(t, deadletter.Filter{}); len(got) != 1 {
		t.Errorf("%d letters; want 1", len(got))
	}
}

func TestList_Filters(t *testing.T) {
	t.Parallel()
	b := open(t)
	if got := b.list(t, deadletter.Filter{}); got != nil {
		t.Fatalf("letters of an empty archive: %+v", got)
	}
	b.bury(t,
		letter("w", "bills.write.successful", "msg_1", "company-1"),
		letter("w", "company.created", "msg_2", "company-2"),
		letter("v", "company.created", "msg_3", "company-1"))
	second := b.list(t, deadletter.Filter{})[1].Buried
	for _, tt := range []struct {
		name string
		f    deadletter.Filter
		want string
	}{
		{"nothing asked is all", deadletter.Filter{}, "msg_1 msg_2 msg_3"},
		{"by worker", deadletter.Filter{Worker: "w"}, "msg_1 msg_2"},
		{"by a worker without letters", deadletter.Filter{Worker: "u"}, ""},
		{"by type", deadletter.Filter{Type: "company.created"}, "msg_2 msg_3"},
		{"by company", deadletter.Filter{Company: "company-1"}, "msg_1 msg_3"},
		{"by all of them", deadletter.Filter{Worker: "v", Type: "company.created", Company: "company-1"}, "msg_3"},
		{"since", deadletter.Filter{Since: second}, "msg_2 msg_3"},
		{"until", deadletter.Filter{Until: second}, "msg_1"},
		{"since the future", deadletter.Filter{Since: time.Now().Add(time.Hour)}, ""},
	} {
		var ids []string
		for _, l := range b.list(t, tt.f) {
			ids = append(ids, l.WebhookID)
		}
		if got := strings.Join(ids, " "); got != tt.want {
			t.Errorf("%s: %q; want %q", tt.name, got, tt.want)
		}
	}
	enough := errors.New("enough")
	if err := deadletter.List(context.Background(), b.JS, source, deadletter.Filter{}, func(deadletter.Letter) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("List = %v; want what the callback said", err)
	}
}

func TestRedrive_IsTheEventWithoutTheLettersHeaders(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.bury(t, letter("w", "t", "msg_1", "company-1"))
	l := b.list(t, deadletter.Filter{})[0]
	first, err := b.redriver().Redrive(context.Background(), "r1", l)
	if err != nil || first.Duplicate {
		t.Fatalf("Redrive = %+v, %v", first, err)
	}
	if again, err := b.redriver().Redrive(context.Background(), "r1", l); err != nil || !again.Duplicate {
		t.Errorf("the same redrive again = %+v, %v; want it stored once", again, err)
	}
	if other, err := b.redriver().Redrive(context.Background(), "r2", l); err != nil || other.Duplicate {
		t.Errorf("another redrive = %+v, %v; want it stored too", other, err)
	}
	st, err := b.JS.Stream(context.Background(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetMsg(context.Background(), first.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject != "codat.redrive.w.t" || string(m.Data) != string(l.Body) {
		t.Errorf("the redrive is %q on %s; want the body on codat.redrive.w.t", m.Data, m.Subject)
	}
	var names []string
	for name := range m.Header {
		if strings.HasPrefix(name, "headgate-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if got := fmt.Sprint(names); got != "[headgate-redrive headgate-sequence]" || m.Header.Get(stream.HeaderSequence) != "7" {
		t.Errorf("the redrive has the headers %v; want its id and the event's sequence only", names)
	}
	if m.Header.Get(stream.HeaderWebhookID) != "msg_1" || m.Header.Get(jetstream.MsgIDHeader) != "redrive:w:r1:msg_1" {
		t.Errorf("the redrive's ids are %v", m.Header)
	}
}

func TestRedriver_RefusesWhileTheStreamIsNearlyFull(t *testing.T) {
	t.Parallel()
	b := open(t)
	st, err := b.JS.Stream(context.Background(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	cfg := st.CachedInfo().Config
	cfg.MaxBytes = 10_000
	if _, err := b.JS.UpdateStream(context.Background(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := b.JS.Publish(context.Background(), "codat.events.t", make([]byte, 9_100)); err != nil {
		t.Fatal(err)
	}
	err = b.redriver().CheckSpace(context.Background())
	if !errors.Is(err, stream.ErrFull) || !strings.Contains(err.Error(), "headgate provision --max-bytes") {
		t.Errorf("CheckSpace of a stream that is 91 %% full = %v; want ErrFull and the cure", err)
	}
}

// An event that another publisher stored has no webhook-id: its letter has the id that its worker knows it by.
func TestBury_ReadsBackTheIDOfAnEventWithoutOne(t *testing.T) {
	t.Parallel()
	b := open(t)
	l := letter("w", "t", "sequence-7", "")
	l.Header = nil
	b.bury(t, l)
	if got := b.list(t, deadletter.Filter{}); len(got) != 1 || got[0].WebhookID != "sequence-7" {
		t.Errorf("List() = %+v; want the letter of sequence-7", got)
	}
}
