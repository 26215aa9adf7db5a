package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// statuses are the results of a report by code.
func statuses(r *Report) map[string]Status {
	all := map[string]Status{}
	for _, one := range r.Results {
		all[one.Code] = one.Status
	}
	return all
}

// report examines, after change has changed what was seen. It is nil when there is something to change and not all has answered.
func (in *installation) report(change func(*facts)) *Report {
	in.Helper()
	for _, i := range in.running {
		i.Seen = time.Now()
		in.record("CODAT_workers", i.Worker+"."+i.Instance, i)
	}
	f := gather(in.Context(), in.Options)
	defer f.close()
	if change != nil {
		if !f.snapshot.Complete || f.server.account == nil {
			return nil
		}
		change(f)
	}
	return f.report()
}

// until examines until problems finds none in the report: on a slow machine an answer can come too late.
func (in *installation) until(change func(*facts), problems func(*Report) []string) {
	in.Helper()
	var last []string
	defer func() {
		if in.Failed() {
			in.Log(strings.Join(last, "\n"))
		}
	}()
	streamtest.Wait(in.TB, func() bool {
		r := in.report(change)
		if r == nil {
			last = []string{"not all has answered"}
			return false
		}
		last = problems(r)
		return len(last) == 0
	}, "the report is as wanted")
}

// A fault breaks one thing. It changes the installation, or what was seen of it where a test cannot: clocks, and what must be old.
type fault struct {
	want    Status
	follows []string // codes of checks that change too
	cause   func(*installation)
	seen    func(*facts)
}

// withPrefix are the codes that begin so.
func withPrefix(prefixes ...string) (codes []string) {
	for _, c := range checks {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(c.code, p) }) {
			codes = append(codes, c.code)
		}
	}
	return codes
}

// faults has one for each check.
var faults = map[string]fault{
	"HG-SET-001": {want: Warn, cause: func(in *installation) { in.Variables = []string{"HEADGATE_LISTNE"} }},
	"HG-SET-002": {want: Fail, follows: []string{"HG-SET-003"}, cause: func(in *installation) { in.NATS.NATSCreds = in.file("creds", "nothing") }},
	"HG-SET-003": {want: Warn, cause: func(in *installation) { in.NATS.NATSCA = in.certificate(10 * 24 * time.Hour) }},
	"HG-SET-004": {want: Warn, cause: func(in *installation) { in.must(os.Chmod(in.SecretFiles[0], 0o666)) }},

	"HG-KEY-001": {want: Fail, follows: []string{"HG-KEY-002"}, cause: func(in *installation) { in.secretFile("whsec_short\n") }},
	"HG-KEY-002": {want: Fail, cause: func(in *installation) {
		const example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
		key, err := signature.ParseKey(example)
		in.must(err)
		in.secretFile(example)
		in.processes[0].Metrics[1].Labels["key"] = key.Fingerprint()
	}},
	"HG-KEY-003": {want: Warn, cause: func(in *installation) {
		old := time.Now().Add(-400 * 24 * time.Hour)
		in.must(os.Chtimes(in.SecretFiles[0], old, old))
	}},
	"HG-KEY-004": {want: Warn, cause: func(in *installation) {
		in.processes[0].Metrics = append(in.processes[0].Metrics, Metric{Name: "headgate_ingress_key_matches_total", Labels: map[string]string{"key": "deadbeef"}})
	}},

	"HG-NATS-001": {want: Fail, follows: dependent(connection), cause: func(in *installation) {
		in.Connect = func(context.Context) (jetstream.JetStream, func(), error) { return nil, nil, errors.New("refused") }
	}},
	"HG-NATS-002": {want: Warn, seen: func(f *facts) { f.server.roundTrip = 3 * time.Second }},
	"HG-NATS-003": {want: Fail, seen: func(f *facts) { f.server.version = "2.11.9" }},
	"HG-NATS-004": {want: Fail, follows: dependent(account), cause: func(in *installation) { in.Connect = in.connect(plainServer(in, nil)) }},
	"HG-NATS-005": {want: Fail, cause: func(in *installation) { in.MaxBody = 2 << 20 }},
	"HG-NATS-006": {want: Warn, cause: func(in *installation) { in.Connect = in.connect(plainServer(in, []string{"$JS.API.STREAM.MSG.GET.>"})) }},
	"HG-NATS-007": {want: Warn, seen: func(f *facts) { f.server.account.Store, f.server.account.Limits.MaxStore = 75, 100 }},

	"HG-SRV-001": {want: Warn, cause: func(in *installation) { in.Monitors = append(in.Monitors, "http://127.0.0.1:1") }},
	"HG-SRV-002": {want: Fail, cause: func(in *installation) { in.monitors[1].healthy = false }},
	"HG-SRV-003": {want: Fail, cause: func(in *installation) { in.monitors[1].syncs = false }},
	"HG-SRV-004": {want: Fail, cause: func(in *installation) { in.monitors[1].leader = "" }},
	"HG-SRV-005": {want: Fail, cause: func(in *installation) { in.monitors[1].storage = 900 }},
	"HG-SRV-006": {want: Warn, cause: func(in *installation) { in.monitors[1].memory = 1 << 30 / 4 * 3 }},
	"HG-SRV-007": {want: Warn, cause: func(in *installation) { in.monitors[1].version = "2.15.1" }},
	"HG-SRV-008": {want: Fail, cause: func(in *installation) { in.monitors[1].messages++ }},
	"HG-SRV-009": {want: Fail, cause: func(in *installation) { in.monitors[1].bytes++ }},

	"HG-CLK-001": {want: Warn, seen: func(f *facts) { f.server.clock = -2 * time.Minute }},
	"HG-CLK-002": {want: Fail, cause: func(in *installation) { in.monitors[1].clock = 10 * time.Minute }},
	"HG-CLK-003": {want: Warn, cause: func(in *installation) { in.metric("headgate_ingress_signature_age_seconds", -90) }},

	"HG-STR-001": {want: Fail, cause: func(in *installation) { in.must(in.JS.DeleteStream(in.Context(), "KV_CODAT_connections")) }},
	"HG-STR-002": {want: Warn, cause: func(in *installation) {
		in.editStream("CODAT_OPERATOR", func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew })
	}},
	"HG-STR-003": {want: Fail, seen: func(f *facts) { f.snapshot.Streams[0].HasLeader = false }},
	"HG-STR-004": {want: Warn, seen: func(f *facts) { f.snapshot.Streams[0].ReplicasCurrent = 0 }},
	"HG-STR-005": {want: Warn, seen: func(f *facts) { f.snapshot.Streams[0].Replicas, f.snapshot.Streams[0].ReplicasCurrent = 3, 3 }},
	"HG-STR-006": {want: Fail, cause: func(in *installation) {
		in.editStream("KV_CODAT_connections", func(c *jetstream.StreamConfig) { c.MaxBytes = 1000 })
		in.publish("$KV.CODAT_connections.x", strings.Repeat("x", 850))
	}},
	"HG-STR-007": {want: Fail, cause: func(in *installation) {
		in.editStream("CODAT_PARKED", func(c *jetstream.StreamConfig) { c.MaxBytes = 1000 })
		in.publish("codat.parked.connections.connection.created", strings.Repeat("x", 850))
	}},
	"HG-STR-008": {want: Warn, follows: []string{"HG-STR-002"}, cause: func(in *installation) {
		in.editStream("CODAT", func(c *jetstream.StreamConfig) { c.Duplicates = time.Hour })
	}},
	"HG-STR-009": {want: Warn, follows: []string{"HG-STR-002"}, cause: func(in *installation) {
		in.editStream("CODAT", func(c *jetstream.StreamConfig) { c.MaxAge, c.Duplicates = 7*24*time.Hour, 7*24*time.Hour })
	}},
	"HG-STR-010": {want: Fail, seen: func(f *facts) { f.snapshot.Streams[0].Lost = 2 }},

	"HG-CON-001": {want: Fail, cause: func(in *installation) { in.must(in.JS.DeleteConsumer(in.Context(), "CODAT_PARKED", "connections")) }},
	"HG-CON-002": {want: Warn, cause: func(in *installation) {
		in.editConsumer("CODAT", func(c *jetstream.ConsumerConfig) { c.AckWait = 2 * time.Minute })
	}},
	"HG-CON-003": {want: Fail, seen: func(f *facts) { f.snapshot.Consumers[0].HasLeader = false }},
	"HG-CON-004": {want: Warn, follows: []string{"HG-CON-002"}, cause: func(in *installation) {
		c := in.editConsumer("CODAT", func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 2 })
		in.publish("codat.events.connection.created", "{}")
		in.publish("codat.events.connection.created", "{}")
		in.takes(c, 2)
	}},
	"HG-CON-005": {want: Warn, follows: []string{"HG-CON-002"}, cause: func(in *installation) {
		in.editConsumer("CODAT_PARKED", func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 2 })
		in.publish("codat.parked.connections.connection.created", "{}")
		in.publish("codat.parked.connections.connection.deleted", "{}")
		streamtest.WaitPending(in, in.JS, source.ParkedStream(), "connections", 2)
	}},
	"HG-CON-006": {want: Warn, cause: func(in *installation) {
		_, err := in.JS.PauseConsumer(in.Context(), "CODAT", "connections", time.Now().Add(time.Hour))
		in.must(err)
	}},

	"HG-WRK-001": {want: Fail, cause: func(in *installation) {
		in.publish("codat.events.connection.created", "{}")
		streamtest.WaitPending(in, in.JS, source.Stream(), "connections", 1)
		in.running = nil
	}},
	"HG-WRK-002": {want: Warn, cause: func(in *installation) {
		in.running = append(in.running, inspect.Instance{Worker: "connections", Instance: "b", Version: "v2"})
	}},
	"HG-WRK-003": {want: Warn, cause: func(in *installation) {
		in.running[0].Paused = time.Now().Add(-20 * time.Minute)
	}},
	"HG-WRK-004": {want: Warn, cause: func(in *installation) {
		in.running[0].CannotClaim = "bucket not found"
	}},
	"HG-WRK-005": {want: Warn, seen: func(f *facts) {
		for i := range f.snapshot.Consumers {
			if age := 2 * time.Hour; f.snapshot.Consumers[i].OldestUnsettled != nil {
				f.snapshot.Consumers[i].OldestUnsettled = &age
			}
		}
	}},
	"HG-WRK-006": {want: Warn, cause: func(in *installation) { in.publish("codat.dead.connections.connection.created", "{}") }},
	"HG-WRK-007": {want: Warn, cause: func(in *installation) {
		in.publish("codat.parked.connections.connection.created", "{}")
		streamtest.WaitPending(in, in.JS, source.ParkedStream(), "connections", 1)
	}, seen: later(25 * time.Hour)},
	"HG-WRK-008": {want: Warn, cause: func(in *installation) { in.metric("headgate_worker_stuck_handlers", 1) }},

	"HG-EVT-001": {want: Fail, seen: later(4 * 24 * time.Hour)},
	"HG-EVT-002": {want: Warn, cause: func(in *installation) { in.publish("codat.quarantine", "{") }},
	"HG-EVT-003": {want: Warn, cause: func(in *installation) { in.expect(state.Expected{Kind: state.SilentType, Type: "company.created"}) }},
	"HG-EVT-004": {want: Warn, cause: func(in *installation) { in.expect(state.Expected{Kind: state.OverdueWrite, PushOperationKey: "key-1"}) }},
	"HG-EVT-005": {want: Warn, cause: func(in *installation) {
		in.expect(state.Expected{Kind: state.StaleRead, Company: "c-1", Connection: "k-1", DataType: "items"})
	}},

	"HG-COD-001": {want: Fail, follows: []string{"HG-COD-002", "HG-COD-003", "HG-COD-004"}, cause: func(in *installation) {
		in.Endpoints = func(context.Context) ([]Endpoint, error) { return nil, errors.New("401") }
	}},
	"HG-COD-002": {want: Fail, cause: func(in *installation) { in.endpoints = append(in.endpoints, Endpoint{ID: "ep_2", Disabled: true}) }},
	"HG-COD-003": {want: Warn, cause: func(in *installation) { in.endpoints = slices.Repeat(in.endpoints, 50) }},
	"HG-COD-004": {want: Warn, cause: func(in *installation) { in.endpoints[0].Types = []string{"connection.created"} }},
	"HG-COD-005": {want: Warn, cause: func(in *installation) {
		in.record("CODAT_quota", state.QuotaKey, state.Quota{Exhausted: true, Received: time.Now(), Renewal: time.Now().Add(time.Hour)})
	}},

	"HG-PRC-001": {want: Fail, cause: func(in *installation) {
		in.processes = append(in.processes, Process{Address: "worker-2:9090", Err: errors.New("refused")})
	}},
	"HG-PRC-002": {want: Fail, cause: func(in *installation) { in.metric("headgate_ready", 0) }},
	"HG-PRC-003": {want: Warn, cause: func(in *installation) { in.metric("headgate_ingress_file_problems", 1) }},
	"HG-PRC-004": {want: Warn, cause: func(in *installation) {
		in.metric("headgate_ingress_certificate_end_timestamp_seconds", float64(time.Now().Add(10*24*time.Hour).Unix()))
	}},
	"HG-PRC-005": {want: Warn, cause: func(in *installation) { in.metric("headgate_ingress_unmatched_signatures_total", 3) }},
}

// problems says in what a report differs from what the fault is to cause.
func (f fault) problems(code string, r *Report) (all []string) {
	for _, one := range r.Results {
		want := ""
		switch {
		case one.Code == code && (one.Status != f.want || one.Measured == "" || one.Cure == ""):
			want = string(f.want) + " with what was measured and a cure"
		case one.Code == code:
		case slices.Contains(f.follows, one.Code) && one.Status == OK:
			want = "that it follows"
		case !slices.Contains(f.follows, one.Code) && one.Status != OK:
			want = "ok"
		}
		if want != "" {
			all = append(all, fmt.Sprintf("%+v; want %s", one, want))
		}
	}
	return all
}

// later examines as if the time had gone on since everything was read.
func later(d time.Duration) func(*facts) { return func(f *facts) { f.now = f.now.Add(d) } }

// dependent are the codes of the checks that cannot be made without a need.
func dependent(n need) (codes []string) {
	for _, c := range checks {
		for has, at := true, c.needs; has; at, has = after[at] {
			if at == n {
				codes = append(codes, c.code)
			}
		}
	}
	return append(codes, "HG-COD-004") // it compares with the consumers
}

// expect stores a record of headgate watch.
func (in *installation) expect(e state.Expected) {
	in.Helper()
	key, err := e.Key()
	in.must(err)
	e.Due = time.Now().Add(-time.Minute)
	in.record("CODAT_expected", key, e)
}

// takes receives messages and does not settle them.
func (in *installation) takes(c jetstream.Consumer, n int) {
	in.Helper()
	taken := 0
	streamtest.Wait(in, func() bool {
		batch, err := c.Fetch(n-taken, jetstream.FetchMaxWait(time.Second))
		in.must(err)
		for range batch.Messages() {
			taken++
		}
		return taken == n
	}, "the messages are delivered")
}

func (in *installation) must(err error) {
	in.Helper()
	if err != nil {
		in.Fatal(err)
	}
}

func (in *installation) file(name, text string) string {
	in.Helper()
	name = filepath.Join(in.TempDir(), name)
	in.must(os.WriteFile(name, []byte(text), 0o600))
	return name
}

// certificate returns a file with a certificate that ends then.
func (in *installation) certificate(left time.Duration) string {
	in.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	in.must(err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(left)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	in.must(err)
	return in.file("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

func TestExamine_AllIsWell(t *testing.T) {
	t.Parallel()
	newInstallation(t).until(nil, func(r *Report) (problems []string) {
		for _, one := range r.Results {
			if one.Status != OK || one.Measured == "" {
				problems = append(problems, fmt.Sprintf("%+v; want ok", one))
			}
		}
		return problems
	})
}

// Each check notices what it is for, and no other does, but for those that must follow.
func TestExamine_EachFaultIsNoticedAlone(t *testing.T) {
	t.Parallel()
	if len(checks) < 30 {
		t.Errorf("%d checks; want 30 at least", len(checks))
	}
	for _, c := range checks {
		t.Run(c.code, func(t *testing.T) {
			t.Parallel()
			f, ok := faults[c.code]
			if !ok {
				t.Fatal("no fault breaks it")
			}
			in := newInstallation(t)
			if f.cause != nil {
				f.cause(in)
			}
			in.until(f.seen, func(r *Report) []string { return f.problems(c.code, r) })
		})
	}
	if len(faults) != len(checks) {
		t.Errorf("%d faults for %d checks", len(faults), len(checks))
	}
}

// Nothing of a source is ok that does not exist.
func TestExamine_OfAnotherSource(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	in.Source, in.Layout.Source = "other", "other"
	examined := dependent(streams)
	in.until(nil, func(r *Report) (problems []string) {
		for _, one := range r.Results {
			if slices.Contains(examined, one.Code) && one.Status != Fail && one.Status != Skipped {
				problems = append(problems, fmt.Sprintf("%+v; want it missing or skipped", one))
			}
		}
		if got := statuses(r); got["HG-STR-001"] != Fail || got["HG-CON-001"] != Fail || got["HG-NATS-004"] != OK {
			problems = append(problems, fmt.Sprintf("%+v; want that streams and consumers are missing", r.Results))
		}
		return problems
	})
}

// The records of headgate watch and of the quota cannot be seen where their buckets do not exist.
func TestExamine_WithoutTheBucketsOfRecords(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	in.must(in.JS.DeleteStream(in.Context(), "KV_CODAT_quota"))
	in.must(in.JS.DeleteStream(in.Context(), "KV_CODAT_expected"))
	in.until(nil, func(r *Report) []string {
		if got := statuses(r); got["HG-COD-005"] != Skipped || got["HG-EVT-004"] != Skipped {
			return []string{fmt.Sprintf("%v; want the quota and the writes skipped", got)}
		}
		return nil
	})
}

func TestChecks_AreDescribed(t *testing.T) {
	t.Parallel()
	codes := map[string]bool{}
	for _, c := range Checks() {
		if codes[c.Code] || c.Name == "" || c.Threshold == "" || c.Anchor == "" {
			t.Errorf("%+v is there twice or lacks a description", c)
		}
		codes[c.Code] = true
	}
}
