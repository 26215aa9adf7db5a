package main

import (
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A push of the stand-in for Codat goes from pending to its end, whose webhook the ingress accepts and the worker handles.
func TestDev_WithCodatShowsPushesFromPendingToTheirEnds(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	c := startDev(t, data, "--with-codat", "--codat-listen", "127.0.0.1:0")
	c.out.says(t, "Next")
	shows := func(words ...string) string {
		t.Helper()
		var found string
		streamtest.Wait(t, func() bool {
			all := c.out.lines()
			i := slices.IndexFunc(all, line(words...))
			if i >= 0 {
				found = all[i]
			}
			return i >= 0
		}, strings.Join(words, " "))
		return found
	}
	// What it tells people to type next is a push that fails. The record of the worker has the reason, which no webhook has.
	typed := regexp.MustCompile(`curl -H 'Authorization: (.*)' -d '(.*)' \\\s+(http://\S+)`).FindStringSubmatch(c.out.String())
	if typed == nil {
		t.Fatalf("no push to type next in\n%s", &c.out)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, typed[3], strings.NewReader(typed[2]))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", typed[1])
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the push is answered %s", resp.Status)
	}
	shows("pending", "push of directCosts")
	shows("success", "push of directCosts", "record ")
	shows("accepted", "directCosts.write.successful", "204")
	shows("handled", "directCosts.write.successful", "by writes, attempt 1")
	key := strings.Fields(shows("failed", "push of directCosts"))[4]
	shows("handled", "directCosts.write.unsuccessful", "by writes")
	nc, err := nats.Connect(at(t, c.out.String(), "NATS"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	writes, err := state.OpenWrites(t.Context(), js, source)
	if err != nil {
		t.Fatal(err)
	}
	if w, err := writes.Get(t.Context(), key); err != nil || w.Status != codat.Failed || w.Reason == nil || w.Company != devCompany {
		t.Errorf("the record of the write is %+v, %v; want it failed, with a reason", w, err)
	}

	// The worker connections has the key too.
	answer, err := http.Get(strings.Replace(at(t, c.out.String(), "health"), "/readyz", "/metrics", 1))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(text), `headgate_connections_reconcile_period_seconds{process="worker-connections"} 86400`)

	readPrivateFile(t, filepath.Join(data, "codat-key"))
	c.stop()
	c.exit(0)
	if strings.Contains(c.err.String(), "ERROR") {
		t.Errorf("it complains: %s", &c.err)
	}
}
