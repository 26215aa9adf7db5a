package ingress_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// The log line of a refusal names the mistake in the words of headgate verify, with what it needs, and has neither the body nor a
// header's value. Each mistake has an ingress of its own: they have a limit.
func TestHandler_LogsTheKnownMistake(t *testing.T) {
	t.Parallel()
	k, unknown := newKey(t, "us"), newKey(t, "another")
	const secret, evil = "SECRET-OF-A-COMPANY", "\x1b[31mevil"
	body := strings.Replace(event("company.created"), "c-1", secret, 1)
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte(body), "", "  "); err != nil {
		t.Fatal(err)
	}
	with := func(h http.Header, name, value string) http.Header {
		h = h.Clone()
		h.Set(name, value)
		return h
	}
	signed := post("http://x", k, "msg_1", body).Header
	old := http.Header{}
	sign(old, k, "msg_1", time.Now().Add(-time.Hour), body)
	wrong := http.Header{}
	sign(wrong, unknown, "msg_1", time.Now(), body)
	sum := strings.TrimPrefix(signed.Get("webhook-signature"), "v1,")
	for _, tt := range []struct {
		name     string
		header   http.Header
		body     string
		verdict  string
		found    string
		evidence string
	}{
		{"indented on the way", signed, indented.String(), "body", "the same JSON without white space", "JSON with white space"},
		{"an hour old", old, body, "too_old", "1h0m", "signed 1h0m"},
		{"another key", wrong, body, "no_match", "no known mistake", "tried with key: " + k.Fingerprint()},
		{"too large", wrong, body + strings.Repeat(" ", 20000), "", "", "not all known mistakes were tried"},
		{"no header", http.Header{}, body, "missing", "none of the headers", "signature headers: none"},
		{"other names", http.Header{"X-Webhook-Id": signed["Webhook-Id"], "X-Webhook-Timestamp": signed["Webhook-Timestamp"], "X-Webhook-Signature": signed["Webhook-Signature"]}, body, "family", "x-webhook-id", "signature headers: none"},
		{"without v1", with(signed, "webhook-signature", sum), body, "encoding", "without v1,", "1 of another form"},
		{"cut off", signed, body[:60], "truncated", "ends after 60 bytes", "the body has 60 bytes"},
		{"encoded", with(wrong, "Content-Encoding", secret[:2]+strings.Repeat("z", 200)), body, "no_match", "", `Content-Encoding is "SEzzz`},
		{"hostile", http.Header{"Webhook-Id": {secret + "!"}, "Webhook-Timestamp": {secret}, "Webhook-Signature": {secret + "," + secret}}, body, "malformed", "not a plain number", "1 of another form"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := serveStore(t, []signature.Key{k.Key}, 8, nil)
			req := post(d.url, k, "msg_1", tt.body)
			req.Header = tt.header
			if got := send(t, req); got.status != 401 {
				t.Fatalf("answered %d; want 401", got.status)
			}
			_, line := d.line(t)
			verdict, _ := line["verdict"].(string)
			found, _ := line["found"].(string)
			cure, _ := line["cure"].(string)
			if evidence := fmt.Sprint(line["evidence"]); verdict != tt.verdict || !strings.Contains(found, tt.found) || !strings.Contains(evidence, tt.evidence) || (cure != "") != (verdict != "") {
				t.Errorf("logged %v; want %q, %q, %q and a cure", line, tt.verdict, tt.found, tt.evidence)
			}
			if all := fmt.Sprint(line); strings.Contains(all, secret) || strings.Contains(all, sum) || strings.Contains(all, evil) {
				t.Errorf("the line has what was sent: %v", all)
			}
		})
	}
}

// Of many forgeries some are diagnosed, and the others have what their headers tell. Codat's own addresses have a limit of their own.
func TestHandler_DiagnosesSomeOfManyRefusals(t *testing.T) {
	t.Parallel()
	k, unknown := newKey(t, "us"), newKey(t, "another")
	d := serveStoreWith(t, ingress.ServerOptions{MaxBytes: 64 << 20, LogAccepted: 1000, TrustedProxies: loopback}, []signature.Key{k.Key}, 8, nil)
	const forgeries = 50
	began := time.Now()
	for range forgeries {
		if got := send(t, post(d.url, unknown, "msg_1", event("company.created"))); got.status != 401 {
			t.Fatalf("answered %d; want 401", got.status)
		}
	}
	streamtest.Wait(t, func() bool { return len(d.lines()) == forgeries }, "each has its line")
	most := 4 + int(time.Since(began)/time.Second) + 1
	diagnosed := 0
	for _, line := range d.lines() {
		fields := line.ContextMap()
		if _, ok := fields["verdict"]; ok {
			diagnosed++
		}
		if !strings.Contains(fmt.Sprint(fields["evidence"]), "signatures in webhook-signature: 1 of v1") {
			t.Errorf("logged %v; want what the headers tell", fields)
		}
	}
	if diagnosed < 4 || diagnosed > most {
		t.Errorf("%d of %d forgeries were diagnosed; want 4 to %d", diagnosed, forgeries, most)
	}
	d.logs.TakeAll()
	req := post(d.url, unknown, "msg_1", event("company.created"))
	req.Header.Set("X-Forwarded-For", "4.159.114.108")
	send(t, req)
	if _, line := d.line(t); line["verdict"] != "no_match" {
		t.Errorf("logged %v; want a diagnosis of a request from Codat's address", line)
	}
}

// slowObserver holds each request until end is closed, or for a second.
type slowObserver struct {
	process.Observer
	held, end chan struct{}
	shown     atomic.Bool
}

func (o *slowObserver) RequestEnded(process.Request) bool {
	close(o.held)
	select {
	case <-o.end:
	case <-time.After(time.Second):
		o.shown.Store(true)
	}
	return false
}

// The process ends after the log lines of the requests that it has refused.
func TestRun_WaitsForDiagnoses(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	k := newKey(t, "us")
	o := &slowObserver{held: make(chan struct{}), end: make(chan struct{})}
	g := run(t, settings(t, s.URL, k), func(p *process.Process) { p.Observer = o })
	if got := send(t, post(g.url, newKey(t, "another"), "msg_1", event("company.created"))); got.status != 401 {
		t.Fatalf("answered %d; want 401", got.status)
	}
	<-o.held
	g.stop()
	err := <-g.ended
	close(o.end)
	if err != nil || !o.shown.Load() {
		t.Errorf("Run = %v before the diagnosis ended; want it after", err)
	}
}

// heldObserver holds the one request that it sees until it is released.
type heldObserver struct {
	process.Observer
	held, end chan struct{}
	once      sync.Once
}

func (o *heldObserver) RequestEnded(process.Request) bool {
	close(o.held)
	<-o.end
	return false
}

func (o *heldObserver) release() { o.once.Do(func() { close(o.end) }) }

// The copy of a body that is diagnosed after the response counts against the memory of unverified bodies, until the log line.
func TestHandler_DiagnosedBodyCounts(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	o := &heldObserver{held: make(chan struct{}), end: make(chan struct{})}
	g := run(t, settings(t, s.URL, newKey(t, "us")), func(p *process.Process) { p.Observer = o })
	t.Cleanup(o.release)
	body := event("company.created")
	if got := send(t, post(g.url, newKey(t, "another"), "msg_1", body)); got.status != 401 {
		t.Fatalf("answered %d; want 401", got.status)
	}
	<-o.held
	counted := func(n float64) func() bool {
		return func() bool {
			return g.value(t, "body_bytes_in_flight", "unverified") == n
		}
	}
	streamtest.Wait(t, counted(float64(len(body))), "the copy of the body to be what counts")
	o.release()
	streamtest.Wait(t, counted(0), "it to count no more")
}
