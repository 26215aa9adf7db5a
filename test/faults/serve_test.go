//go:build faults

package faults

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers/builtin"
)

// operate runs a command of headgate as an operator does.
func operate(t testing.TB, args ...string) string {
	t.Helper()
	out, says, err := tryOperate(t, args...)
	if err != nil {
		t.Fatalf("headgate %s: %v\n%s%s", strings.Join(args, " "), err, out, says)
	}
	return out
}

// tryOperate runs a command of headgate, and returns its results and messages.
func tryOperate(t testing.TB, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, build(t, "headgate"), args...)
	var out, says bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = environment(), &out, &says
	err = cmd.Run()
	return out.String(), says.String(), err
}

// stops stops programs, which have to end well.
func stops(t testing.TB, programs ...*program) {
	t.Helper()
	for _, p := range programs {
		if code := p.stop(); code != 0 && !strings.HasPrefix(p.name, "nats") {
			t.Errorf("%s = exit %d after SIGTERM; want 0", p.name, code)
		}
	}
}

// The way out of docs/serve.md: headgate serve becomes a nats-server on the same folder with an ingress and workers of their
// own, and that a cluster of three, while events come. Each event that was answered 2xx is stored once and handled once, and
// each that was sent gets in.
func TestServe_Faults_BecomesClusterOfThree(t *testing.T) {
	data, public, client, admin := filepath.Join(t.TempDir(), "headgate"), address(t), address(t), address(t)
	codat, keys := newSender(t, func() string { return public })
	serve := launch(t, "serve", "headgate", admin, "serve", "--data-dir", data, "--secret-file", keys,
		"--listen", public, "--admin-listen", admin, "--nats-listen", client, "--drain-delay", "0s", "--log-level", "warn")
	serve.waitReady()
	own := &replicas{t: t, b: &broker{t: t}, effects: filepath.Join(t.TempDir(), "effects")}
	add := func(name, url string, args ...string) *program {
		own.add(name, url, "warn", 0, ackWait, args...)
		return own.replica[len(own.replica)-1]
	}
	counter := add("counter", "nats://"+client, "--provision") // a worker of one's own
	stop := codat.flow(4, anything)
	codat.progress(200)

	// 1. A nats-server opens the folder. Ingress and workers are processes.
	stops(t, counter, serve)
	single := startServer(t, "nats-single", client, address(t), filepath.Join(data, "nats"), "")
	single.waitReady()
	ingress := func(name, url string) *program {
		admin := address(t)
		return launch(t, name, "ingress", admin, "--listen", public, "--admin-listen", admin, "--nats-url", url,
			"--secret-file", keys, "--drain-delay", "0s", "--log-level", "warn")
	}
	workers := func(suffix, url string) (all []*program) {
		for _, w := range builtin.Workers() {
			admin := address(t)
			all = append(all, launch(t, w.Program()+suffix, w.Program(), admin, "--admin-listen", admin, "--nats-url", url, "--log-level", "warn"))
		}
		return all
	}
	counter.start()
	parts := append(workers("-single", "nats://"+client), ingress("ingress-single", "nats://"+client), counter)
	for _, p := range parts {
		p.waitReady()
	}
	codat.progress(200)

	// 2. Three servers without a stream get a backup.
	cluster := startServers(t, nodes)
	began := time.Now()
	stops(t, parts...)
	kept := filepath.Join(t.TempDir(), "backup")
	operate(t, "backup", kept, "--nats-url", "nats://"+client)
	stops(t, single)
	t.Logf("restored:\n%s", operate(t, "restore", kept, "--replicas", "3", "--nats-url", cluster.url, "--connect-timeout", "1m"))
	cluster.waitReady()
	for _, server := range cluster.node {
		stops(t, server)
		server.start()
		cluster.waitReady()
	}
	operate(t, "provision", "--dry-run", "--replicas", "3", "--nats-url", cluster.url)
	for _, p := range append(workers("", cluster.url), ingress("ingress", cluster.url), add("counter-cluster", cluster.url)) {
		p.waitReady()
	}
	t.Logf("nothing was received for %v", time.Since(began).Round(100*time.Millisecond))
	codat.progress(200)
	stop()

	// Codat sends what it has sent before, from the time of headgate serve.
	for hand := range 4 {
		for n := range 20 {
			if status := codat.try(anything(hand, n)); status != 204 {
				t.Errorf("an event that is sent again is answered %d; want 204", status)
			}
		}
	}
	codat.inTime()
	codat.stored(cluster.js)
	own.b = cluster
	own.waitSettled()
	times := map[string]int{}
	for _, e := range own.all() {
		times[e.id]++
	}
	want := 0
	for id, e := range codat.events {
		if e.subject == "codat.events.invoices.write.successful" {
			if want++; times[id] != 1 {
				t.Errorf("%s was handled %d times; want once", id, times[id])
			}
		}
	}
	if len(times) != want {
		t.Errorf("%d events were handled; want %d", len(times), want)
	}
	for _, w := range builtin.Workers() {
		wait(t, func() bool {
			pending, unacknowledged, err := streamtest.Left(context.Background(), cluster.js, source.Stream(), w.Spec.Name)
			return err == nil && pending == 0 && unacknowledged == 0
		}, what(w.Program()+" has handled everything"))
	}
	var out string
	wait(t, func() bool { // a copy that is not up to date is an exception
		var err error
		out, _, err = tryOperate(t, "audit", "--nats-url", cluster.url)
		return err == nil
	}, func() string { return "the audit of all copies finds nothing wrong:\n" + out })
}
