package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A store is a source with workers and states, in which everything about companies is stored.
type store struct {
	testing.TB
	*Operator
	*streamtest.Server
}

func newStore(t testing.TB) *store {
	t.Helper()
	s := streamtest.New(t,
		stream.WorkerSpec{Name: "bookkeeper", Types: []codat.Pattern{">"}, State: []string{"connections", "writes", "reads", plan.StateName}})
	o, err := New(s.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return &store{t, o, s}
}

func (s *store) send(m *nats.Msg) uint64 {
	s.Helper()
	r, err := s.publish(s.Context(), m)
	if err != nil {
		s.Fatalf("store %s: %v", m.Subject, err)
	}
	return r.Sequence
}

func (s *store) event(e stream.Stored, body string) (*nats.Msg, uint64) {
	s.Helper()
	e.Received = time.Now()
	m, err := source.Message(e, []byte(body))
	if err != nil {
		s.Fatal(err)
	}
	return m, s.send(m)
}

func (s *store) put(bucket, key string, value any) {
	s.Helper()
	body, err := encode(value)
	if err != nil {
		s.Fatal(err)
	}
	s.send(&nats.Msg{Subject: "$KV." + source.StateBucket(bucket) + "." + key, Data: body})
}

// everything stores one of everything about a company. key is what stands for its id in keys of buckets.
func (s *store) everything(company, key string) {
	s.Helper()
	quoted, err := json.Marshal(company)
	if err != nil {
		s.Fatal(err)
	}
	id := "msg_" + key
	m, sequence := s.event(stream.Stored{ID: id, Head: codat.Head{Type: "company.created", Company: company}}, `{"companyId":`+string(quoted)+`}`)
	l := deadletter.Letter{Worker: "bookkeeper", Type: "company.created", WebhookID: id, Sequence: sequence, LastError: "company " + key + " failed", Header: m.Header, Body: m.Data}
	if err := deadletter.Bury(s.Context(), s.publisher, source, l); err != nil {
		s.Fatal(err)
	}
	for _, subject := range []string{source.ParkedSubject("bookkeeper", "company.created"), source.RedriveSubject("bookkeeper", "company.created")} {
		s.send(&nats.Msg{Subject: subject, Header: deadletter.Header(m.Header), Data: m.Data})
	}
	s.event(stream.Stored{ID: "quarantined_" + key, Quarantine: "no_type"}, `{"company":`+string(quoted)+`}`)
	s.put("connections", key+".k-1", map[string]any{"company": company})
	s.put("reads", key+".k-1.invoices", map[string]any{"company": company})
	s.put("writes", "push-"+key, map[string]any{"company": company})
	s.put(plan.StateName, "plan-"+key, map[string]any{"plan": map[string]any{"company": company}})
	s.put("expected", "stale."+key+".k-1.invoices", map[string]any{"company": company})
	claim := claims.Record{State: claims.Done, Sequence: sequence, Attempts: 2, Owner: "o", FirstError: "GET /companies/" + company + "/data: 500", LastError: "fine"}
	s.put("claims_bookkeeper", claims.Key{WebhookID: id}.String(), claim)
	if err := s.Record(s.Context(), Entry{Command: "replay", Step: StepBegin, Chosen: map[string]any{"company": company}}); err != nil {
		s.Fatal(err)
	}
}

// raw are all messages of all streams: the stream, the sequence, and all that the server has of it.
func (s *store) raw() map[string]string {
	s.Helper()
	all := map[string]string{}
	for name := range s.JS.StreamNames(s.Context()).Name() {
		_, err := stream.Read(s.Context(), s.JS, name, stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
			var header bytes.Buffer
			for _, added := range []string{"Stream", "Subject", "Sequence", "Time-Stamp", "Num-Pending", "Last-Sequence"} {
				delete(m.Header, "Nats-"+added)
			}
			_ = http.Header(m.Header).Write(&header)
			all[fmt.Sprintf("%s %d", name, m.Sequence)] = m.Subject + "\n" + header.String() + "\n" + string(m.Data)
			return nil
		})
		if err != nil {
			s.Fatal(err)
		}
	}
	return all
}

func (s *store) erasure(company string) *Erasure {
	s.Helper()
	e, err := s.NewErasure(s.Context(), EraseOptions{Company: company, Rate: 1e6})
	if err != nil {
		s.Fatalf("NewErasure = %v", err)
	}
	return e
}

// erased fails when something of a company is left, or something of another has changed.
func (s *store) erased(before map[string]string, names ...string) {
	s.Helper()
	after := s.raw()
	for place, text := range after {
		for _, name := range names {
			if strings.Contains(text, name) {
				s.Errorf("%s still has %q:\n%s", place, name, text)
			}
		}
	}
	for place, text := range before {
		others := !strings.Contains(text, `"command"`)
		for _, name := range names {
			others = others && !strings.Contains(text, name)
		}
		if others && after[place] != text && !strings.Contains(text, plan.OpenPrefix) {
			s.Errorf("%s is\n%s\nand was\n%s", place, after[place], text)
		}
	}
}

const (
	acme  = "c0ffee00-0000-4000-8000-00000000000a"
	other = "c0ffee00-0000-4000-8000-00000000000b"
)

func TestErase_LeavesNothingOfACompanyAndAllOfOthers(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.everything(acme, acme)
	s.everything(other, other)
	s.put(plan.StateName, plan.OpenPrefix+"03", map[string]int{"plan-" + acme: 1, "plan-" + other: 2})
	before := s.raw()
	e := s.erasure(acme)
	if r := e.Result(); r.Found != 13 || r.Erased != 0 || r.Verified {
		t.Fatalf("the preview is %+v; want 13 found", r)
	}
	r, err := e.Run(t.Context())
	if err != nil || !r.Verified || r.Found != 13 || r.Erased != 13 || r.Later != 0 || len(r.Mentions)+r.Encoded+len(r.Behind) != 0 {
		t.Fatalf("Run = %+v, %v; want 13 erased, and verified", r, err)
	}
	s.erased(before, acme)
	var claim claims.Record
	kv, err := s.JS.KeyValue(t.Context(), source.ClaimsBucket("bookkeeper"))
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(t.Context(), claims.Key{WebhookID: "msg_" + acme}.String())
	if err != nil || json.Unmarshal(entry.Value(), &claim) != nil {
		t.Fatalf("the claim: %v; want it kept", err)
	}
	if claim.State != claims.Done || claim.Attempts != 2 || claim.Owner != "o" || claim.FirstError != "GET /companies/(erased)/data: 500" {
		t.Errorf("the claim is %+v; want it without the company, and else as it was", claim)
	}
	var list map[string]int
	if kv, err = s.JS.KeyValue(t.Context(), source.StateBucket(plan.StateName)); err == nil {
		entry, err = kv.Get(t.Context(), plan.OpenPrefix+"03")
	}
	if err != nil || json.Unmarshal(entry.Value(), &list) != nil || len(list) != 1 || list["plan-"+other] != 2 {
		t.Errorf("the list of open plans is %v, %v; want the other company's only", list, err)
	}
	last := records(t, s.JS)
	if n := len(last); n < 2 || last[n-1].Command != "erase" || last[n-1].Step != StepEnd || last[n-1].Given != 13 || last[n-1].Chosen["company_sha256"] != companyID(acme).hash() {
		t.Errorf("the records end with %+v; want the end of the erasure, with a hash", last[len(last)-1])
	}
	if again := s.erasure(acme).Result(); again.Found != 0 {
		t.Errorf("a second time it finds %+v; want nothing", again)
	}
}

// An erasure that is interrupted says what it has erased, and another goes on.
func TestErase_GoesOnAfterAnInterrupt(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.everything(acme, acme)
	s.everything(other, other)
	before := s.raw()
	ctx, cancel := context.WithCancel(t.Context())
	e, err := s.NewErasure(ctx, EraseOptions{Company: acme, Rate: 50, Progress: func(what string, done, _ uint64) {
		if what == "erased" && done == 3 {
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := e.Run(ctx)
	if !errors.Is(err, context.Canceled) || r.Erased < 3 || r.Erased >= r.Found || r.Verified {
		t.Fatalf("Run = %+v, %v; want it interrupted after some", r, err)
	}
	last := records(t, s.JS)
	if end := last[len(last)-1]; end.Step != StepEnd || end.Given != r.Erased || end.Error == "" {
		t.Errorf("the last record is %+v; want what was erased, and the error", end)
	}
	rest, err := s.erasure(acme).Run(t.Context())
	if err != nil || !rest.Verified || rest.Erased != r.Found-r.Erased {
		t.Errorf("the second Run = %+v, %v; want the other %d", rest, err, r.Found-r.Erased)
	}
	s.erased(before, acme)
}

// What arrives while an erasure runs is erased too, and counted; and another company's event that waits is still there.
func TestErase_TakesWhatComesMeanwhile(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.everything(acme, acme)
	e := s.erasure(acme)
	s.event(stream.Stored{ID: "late", Head: codat.Head{Type: "company.updated", Company: acme}}, "{}")
	s.event(stream.Stored{ID: "theirs", Head: codat.Head{Type: "company.updated", Company: other}}, "{}")
	r, err := e.Run(t.Context())
	if err != nil || r.Later != 1 || !r.Verified {
		t.Errorf("Run = %+v, %v; want one that came meanwhile", r, err)
	}
	if events := s.raw(); !strings.Contains(fmt.Sprint(events), "theirs") || strings.Contains(fmt.Sprint(events), "late") {
		t.Errorf("stored are %v; want the other company's event, and not the late one", events)
	}
}

func TestErase_LeavesWhatNamesAnotherCompanyUnlessAsked(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	body := `{"companyId":"` + other + `","was":"\u0063` + acme[1:] + `"}` // escaped
	_, sequence := s.event(stream.Stored{ID: "msg_1", Head: codat.Head{Type: "company.created", Company: other}}, body)
	s.event(stream.Stored{ID: "msg_2", Quarantine: "encoded", ContentEncoding: "gzip"}, "\x1f\x8b")
	r := s.erasure(acme).Result()
	if want := fmt.Sprintf("%s %d", source.Stream(), sequence); r.Found != 0 || len(r.Mentions) != 1 || r.Mentions[0] != want || r.Encoded != 1 {
		t.Errorf("found %+v; want the mention %s, and a body that cannot be read", r, want)
	}
	e, err := s.NewErasure(t.Context(), EraseOptions{Company: acme, Mentions: true, Rate: 100})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := e.Run(t.Context()); err != nil || r.Erased != 1 || len(r.Mentions) != 0 {
		t.Errorf("with Mentions, Run = %+v, %v; want it erased", r, err)
	}
}

// A company can be called as a data type, a kind of what is expected, or a write plan of another company, all of which are in keys.
func TestErase_LeavesRecordsOfOthersWhoseKeysHaveTheID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"invoices", "stale", "k-1", "plan-" + other} {
		s := newStore(t)
		s.everything(other, other)
		s.put(plan.StateName, plan.OpenPrefix+"03", map[string]int{"plan-" + other: 2})
		before := s.raw()
		r, err := s.erasure(id).Run(t.Context())
		if err != nil || r.Found != 0 || len(r.Mentions) == 0 {
			t.Errorf("%s: Run = %+v, %v; want nothing erased, and mentions", id, r, err)
		}
		after := s.raw()
		for place, text := range before {
			if after[place] != text {
				t.Errorf("%s: %s is\n%s\nand was\n%s", id, place, after[place], text)
			}
		}
	}
}

// Whatever text an id is, only what has it is erased.
func TestErase_TakesEveryTextForAnID(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i, hostile := range []string{"*", ">", "c-1", "a.b", `a"b\c`, "é %41\t<&>", "../x", strings.Repeat("ü", 80), "done", "$KV.>"} {
		key := fmt.Sprintf("k%d", i)
		s.everything(hostile, key)
		s.everything("c-12"+key, "other"+key)
		before := s.raw()
		e := s.erasure(hostile)
		if r, err := e.Run(t.Context()); err != nil || !r.Verified {
			t.Fatalf("%q: Run = %+v, %v", hostile, r, err)
		}
		after := s.raw()
		for place, text := range before {
			kept := after[place] == text
			if is := strings.Contains(text, key) && !strings.Contains(text, "other"+key); strings.HasPrefix(place, source.Stream()+" ") && is == kept && !strings.Contains(text, "quarantined_") {
				t.Errorf("%q: %s was kept: %v:\n%s", hostile, place, kept, text)
			}
			if strings.Contains(text, "other"+key) && !kept {
				t.Errorf("%q: %s has changed: it was\n%s\nand is\n%s", hostile, place, text, after[place])
			}
		}
	}
}

func TestEraseOptions_Validate(t *testing.T) {
	t.Parallel()
	for _, o := range []EraseOptions{
		{Company: "", Rate: 1},
		{Company: " \t", Rate: 1},
		{Company: "a\xff", Rate: 1},
		{Company: strings.Repeat("x", 513), Rate: 1},
		{Company: "c-1"},
	} {
		if err := o.Validate(); err == nil {
			t.Errorf("Validate(%+v) = nil; want an error", o)
		}
	}
}

// An id in a text that is without it is not found again, and in JSON it is found however it is escaped.
func TestCompanyID_IsFoundHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := companyID(rapid.StringMatching(`[a-z]{1,3}|[ -~]{1,6}|é?\PC{1,4}`).Draw(t, "id"))
		text := rapid.String().Draw(t, "before") + " " + string(id) + " " + rapid.String().Draw(t, "after")
		if id.validate() != nil {
			return
		}
		if !id.inText(text) {
			t.Fatalf("%q is not found in %q", id, text)
		}
		if !strings.Contains(erasedName, string(id)) && id.inText(id.without(text)) && !strings.ContainsAny(string(id), " (erasd)") {
			t.Fatalf("%q is found in %q", id, id.without(text))
		}
		body, err := json.Marshal(map[string]string{"a": text})
		if err != nil {
			t.Fatal(err)
		}
		if !id.inBody(body) {
			t.Fatalf("%q is not found in %s", id, body)
		}
	})
}

func FuzzCompanyID(f *testing.F) {
	f.Add("c-1", []byte(`{"a":"c-1"}`))
	f.Add("a", []byte("\xff\x00\\u00"))
	f.Fuzz(func(_ *testing.T, id string, body []byte) {
		c := companyID(id)
		if c.validate() != nil {
			return
		}
		_ = c.inBody(body)
		_ = c.without(string(body))
		_ = companyOf(body)
	})
}
