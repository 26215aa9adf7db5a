package workers

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// needed are the permissions of the worker "tested", as deploy/nats grants them.
var needed = []string{
	"$JS.API.CONSUMER.INFO.CODAT.tested", "$JS.API.CONSUMER.MSG.NEXT.CODAT.tested", "$JS.ACK.CODAT.tested.>", "$JS.ACK.*.*.CODAT.tested.>",
	"$JS.API.CONSUMER.INFO.CODAT_PARKED.tested", "$JS.API.CONSUMER.MSG.NEXT.CODAT_PARKED.tested", "$JS.ACK.CODAT_PARKED.tested.>", "$JS.ACK.*.*.CODAT_PARKED.tested.>",
	"codat.dead.tested.>", "codat.parked.tested.>", "$JS.API.STREAM.INFO.CODAT_PARKED", "$JS.API.STREAM.INFO.CODAT_DEAD",
	"$JS.API.STREAM.INFO.KV_CODAT_claims_tested", "$JS.API.DIRECT.GET.KV_CODAT_claims_tested.>", "$KV.CODAT_claims_tested.>", "$KV.CODAT_workers.tested.>",
}

// A worker logs the permission that it lacks, and works once it has it.
func TestRun_NamesTheMissingPermission(t *testing.T) {
	for _, tt := range []struct {
		name, lacks string
		subject     string // as it is named
		message     string // of the line
		unready     bool
	}{
		{"to bind", "$JS.API.CONSUMER.INFO.CODAT.tested", "$JS.API.CONSUMER.INFO.CODAT.tested", "worker cannot start yet; it tries again every second", true},
		{"to open the claims", "$JS.API.STREAM.INFO.KV_CODAT_claims_tested", "$JS.API.STREAM.INFO.KV_CODAT_claims_tested", "worker cannot start yet; it tries again every second", true},
		{"to ask for events", "$JS.API.CONSUMER.MSG.NEXT.CODAT.tested", "$JS.API.CONSUMER.MSG.NEXT.CODAT.tested", "pulling events failed; the worker tries again every second", true},
		{"to claim", "$KV.CODAT_claims_tested.>", "$KV.CODAT_claims_tested.", "event claim_error", true},
		{"to read a claim", "$JS.API.DIRECT.GET.KV_CODAT_claims_tested.>", "$JS.API.DIRECT.GET.KV_CODAT_claims_tested.", "event claim_error", true},
		{"to hear an answer", "_INBOX_tested.>", "_INBOX_tested.", "worker cannot start yet; it tries again every second", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			users := func(lacks string) string {
				var may []string
				for _, subject := range needed {
					if subject != lacks {
						may = append(may, fmt.Sprintf("%q", subject))
					}
				}
				inbox := "_INBOX_tested.>"
				if lacks == inbox {
					inbox = "_INBOX_another.>"
				}
				return fmt.Sprintf(`authorization: { users: [
					{ user: admin, password: p }
					{ user: tested, password: p, permissions: { publish: [ %s ], subscribe: %q } }
				] }`, strings.Join(may, ", "), inbox)
			}
			url, reload := streamtest.Configured(t, users(tt.lacks))
			as := func(user string) string { return strings.Replace(url, "//", "//"+user+":p@", 1) }
			admin, err := nats.Connect(as("admin"))
			if err != nil {
				t.Fatal(err)
			}
			defer admin.Close()
			js, err := jetstream.New(admin)
			if err != nil {
				t.Fatal(err)
			}
			ran := make(chan struct{}, 9)
			w := Worker{Name: "tested", Begin: stream.BeginAll(), Handlers: []Handler{Handle(codat.CompanyCreated, func(context.Context, codat.Event[codat.Company]) error {
				ran <- struct{}{}
				return nil
			})}, pauses: quickPauses}.withDefaults()
			streamtest.Provision(t, js, stream.Layout{Source: source, Workers: []stream.WorkerSpec{w.Spec()}})
			message, err := source.Message(stream.Stored{ID: "msg_1", Head: codat.Head{Type: "company.created"}, Received: time.Now()}, []byte("{}"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := js.PublishMsg(t.Context(), message); err != nil {
				t.Fatal(err)
			}
			if tt.lacks == "$JS.API.DIRECT.GET.KV_CODAT_claims_tested.>" { // a claim is read when there is one
				kv, err := js.KeyValue(t.Context(), source.ClaimsBucket("tested"))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := kv.Create(t.Context(), claims.Key{WebhookID: "msg_1"}.String(), []byte(`{"state":"waiting","attempts":1}`)); err != nil {
					t.Fatal(err)
				}
			}

			logged, logs := observer.New(zap.WarnLevel)
			p := process.New("tested", zap.New(logged))
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			s := Settings{NATS: stream.NATS{NATSURL: as("tested")}, Source: source, Grace: time.Second}
			go func() { ended <- Run(ctx, s, p, w, func(context.Context, Parts) (Worker, error) { return w, nil }) }()
			defer func() {
				cancel()
				if err := <-ended; err != nil {
					t.Errorf("Run = %v", err)
				}
			}()
			streamtest.Wait(t, func() bool {
				for _, line := range logs.FilterMessage(tt.message).All() {
					fields := line.ContextMap()
					if strings.Contains(fmt.Sprint(fields["error"], fields["cause"]), tt.subject) {
						return true
					}
				}
				return false
			}, "a line names the subject")
			if err := p.Health.Ready(); (err != nil) != tt.unready {
				t.Errorf("Ready() = %v; want an error: %v", err, tt.unready)
			}
			reload(users(""))
			select {
			case <-ran:
			case <-time.After(2 * time.Minute):
				t.Error("the worker handles no event although it has every permission")
			}
		})
	}
}

// With --provision, Run logs what it created, and nothing when everything exists.
func TestRun_LogsWhatItProvisioned(t *testing.T) {
	server := streamtest.Empty(t)
	w := Worker{Name: "tested", Begin: stream.BeginAll(), Handlers: []Handler{
		Handle(codat.CompanyCreated, func(context.Context, codat.Event[codat.Company]) error { return nil }),
	}}
	for _, first := range []bool{true, false} {
		logged, logs := observer.New(zap.InfoLevel)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		s := Settings{NATS: stream.NATS{NATSURL: server.URL}, Source: source, Provision: true, Grace: time.Second}
		go func() {
			ended <- Run(ctx, s, process.New("tested", zap.New(logged)), w, func(context.Context, Parts) (Worker, error) { return w, nil })
		}()
		streamtest.Wait(t, func() bool { return logs.FilterMessage("worker started").Len() == 1 }, "it works")
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
		var said strings.Builder
		for _, line := range logs.FilterMessage("provisioned").All() {
			fmt.Fprintln(&said, line.ContextMap()["change"])
		}
		if got := strings.Contains(said.String(), "consumer tested on CODAT"); got != first || !first && said.Len() > 0 {
			t.Errorf("first time %v: it says\n%s", first, &said)
		}
	}
}
