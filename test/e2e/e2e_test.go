//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
)

var (
	events = flag.Int("events", 20_000, "how many events are sent")
	over   = flag.Duration("over", 200*time.Second, "over how long, at least")
)

const source = stream.Source("codat")

// cutOff is how many handlers trouble may cut off, with three workers killed once: each runs so many at once on the
// events, and a quarter of that on parked ones.
const cutOff = 3 * workers.DefaultConcurrency * 5 / 4

// next is the version to which ingress and workers are rolled: other images to compose, although they hold the same.
const next = project + "-next"

func TestEndToEnd(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM) // everything is removed then too
	defer stop()
	e := newEngine(ctx, t)
	t.Cleanup(e.clear)
	e.standIns()

	began := time.Now()
	step := func(format string, v ...any) {
		t.Helper()
		t.Logf("%5.0f s  %s", time.Since(began).Seconds(), fmt.Sprintf(format, v...))
	}
	e.up("build")
	step("images built: %s", strings.ReplaceAll(e.docker("images", "--filter", "reference=headgate/*:"+project, "--format", "{{.Repository}} {{.Size}}"), "\n", ", "))
	e.withoutKeys()
	e.up("run", "--rm", "-u", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()), "keys")
	address := freeAddress(t)
	e.env = append(e.env, "INGRESS_LISTEN="+address)
	e.up("up", "-d")
	e.healthy("ingress", 1)
	e.healthy("worker-connections", 1)
	step("all is up and healthy")

	s := newSender(t, "http://"+address+"/webhooks/codat", filepath.Join(e.folder, "deploy/compose/secrets/webhook/key"))
	var sending sync.WaitGroup
	defer func() { // when something goes wrong meanwhile
		cancel()
		sending.Wait()
	}()
	sending.Go(func() { s.send(ctx, *events, *over) })
	e.trouble(step)
	sending.Wait()
	step("%s", s.said())
	if s.unanswered > 0 {
		t.Errorf("%d events were never answered 2xx", s.unanswered)
	}

	js, err := jetstream.New(e.login("operator", "headgate")) // whose permissions let it see what is to be counted
	if err != nil {
		t.Fatal(err)
	}
	e.settled(js)
	step("all is settled")
	e.up("stop", "worker-connections")
	e.count(js, s.accepted)
	step("counted")
	e.withCompose(slices.Collect(maps.Keys(s.accepted)), step)
	e.ownWorker()
	step("a worker of another repository runs")
	e.relayed()
	step("a route of the relay runs")
	e.serveAlone()
	step("headgate serve runs in a container")
}

// trouble does to the containers what happens to containers.
func (e *engine) trouble(step func(string, ...any)) {
	e.t.Helper()
	servers := []string{"nats-1", "nats-2", "nats-3"}
	worker := func() string { return e.container("worker-connections") }

	id := e.container("ingress")
	e.docker("kill", id)
	e.docker("start", id)
	e.healthy("ingress", 1)
	step("the ingress was killed, and started")

	e.up("up", "-d", "--no-recreate", "--scale", "worker-connections=3")
	e.healthy("worker-connections", 3)
	step("there are three workers")

	ids := e.containers("worker-connections")
	e.docker(append([]string{"kill"}, ids...)...)
	e.docker(append([]string{"start"}, ids...)...)
	e.healthy("worker-connections", 3)
	step("all three were killed, and started")

	for _, name := range servers {
		id := e.container(name)
		e.docker("kill", id)
		e.docker("start", id)
		e.healthy(name, 1)
		step("%s was killed, and has caught up", name)
	}

	id = e.container("nats-2")
	e.freeze(id, 20*time.Second)
	e.healthy("nats-2", 1)
	step("nats-2 stood still for 20 s")

	id = worker()
	network := project + "_broker"
	e.docker("network", "disconnect", network, id)
	e.pass(20 * time.Second)
	e.docker("network", "connect", network, id)
	e.healthy("worker-connections", 3)
	step("a worker was cut off for 20 s")

	id = worker()
	e.freeze(id, 20*time.Second)
	step("a worker stood still for 20 s")

	id = e.container("ingress")
	e.docker("network", "disconnect", network, id)
	e.pass(10 * time.Second)
	e.docker("network", "connect", network, id)
	e.healthy("ingress", 1)
	step("the ingress was cut off from the servers for 10 s")

	e.hear("worker-connections")
	for _, name := range []string{"ingress", "worker-connections", "worker-reads", "worker-writes", "headgate"} {
		e.docker("tag", "headgate/"+name+":"+project, "headgate/"+name+":"+next)
	}
	page := blocks(e.page("docs/operate.md", "## With Compose"), "sh")
	page[0] = strings.Replace(page[0], "docker compose build", "true", 1) // the images are there, built by the same command
	for i, version := range []string{next, project} {                     // upgrade, downgrade
		e.typed(page[i])
		e.healthy("ingress", 1)
		e.healthy("worker-connections", 3)
		e.hear("worker-connections")
		for _, id := range append(e.containers("ingress"), e.containers("worker-connections")...) {
			if image := e.docker("inspect", "-f", "{{.Config.Image}}", id); !strings.HasSuffix(image, ":"+version) {
				e.t.Errorf("a container runs %s; want version %s", image, version)
			}
		}
		step("all are of version %s", version)
	}

	e.up("up", "-d", "--no-recreate", "--scale", "worker-connections=1")
	e.healthy("worker-connections", 1)
	step("there is one worker")
}

// freeze lets a container stand still for a time. The kernel does not always manage to on the first try, while the
// container waits for its disk.
func (e *engine) freeze(id string, d time.Duration) {
	e.t.Helper()
	e.wait("the container stands still", func() bool {
		_, _ = e.try("docker", "pause", id)
		return e.docker("inspect", "-f", "{{.State.Paused}}", id) == "true"
	})
	e.pass(d)
	e.docker("unpause", id)
}

// pass lets time pass.
func (e *engine) pass(d time.Duration) {
	select {
	case <-time.After(d):
	case <-e.ctx.Done():
	}
}

// login connects with the key of a role, as the process called name does.
func (e *engine) login(role, name string) *nats.Conn {
	e.t.Helper()
	var urls []string
	for _, server := range []string{"nats-1", "nats-2", "nats-3"} {
		at := e.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", e.container(server))
		urls = append(urls, "nats://"+net.JoinHostPort(at, "4222"))
	}
	nc, err := stream.Connect(e.ctx, stream.NATS{
		NATSURL: strings.Join(urls, ","), NATSNKey: e.path("deploy/compose/secrets/" + role + "/nkey"),
	}, name, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(nc.Close)
	if err := stream.Connected(e.ctx, nc); err != nil {
		e.t.Fatal(err)
	}
	return nc
}

// settled waits until the worker has nothing left to do.
func (e *engine) settled(js jetstream.JetStream) {
	e.t.Helper()
	var last string
	e.wait("everything is settled", func() bool {
		rest := 0
		for _, name := range []string{source.Stream(), source.ParkedStream()} {
			pending, unacknowledged, err := streamtest.Left(e.ctx, js, name, "connections")
			if err != nil {
				e.t.Fatal(err)
			}
			rest += int(pending) + unacknowledged
		}
		if now := fmt.Sprint(rest); now != last {
			e.t.Logf("%s to be settled", now)
			last = now
		}
		return rest == 0
	})
}

// count counts for itself: every accepted event is stored once, claimed and done once, and its effect is there.
func (e *engine) count(js jetstream.JetStream, accepted map[string]bool) {
	e.t.Helper()
	stored := map[string]int{}
	var keys []string
	e.read(js, source.Stream(), func(m *jetstream.RawStreamMsg) {
		id := m.Header.Get(stream.HeaderWebhookID)
		stored[id]++
		keys = append(keys, claims.Key{WebhookID: id}.String())
	})
	for id := range accepted {
		if stored[id] != 1 {
			e.t.Errorf("%s was answered 2xx and is stored %d times", id, stored[id])
		}
	}
	if len(stored) != len(accepted) {
		e.t.Errorf("%d ids are stored; %d were accepted, and the sender does not rest until all are", len(stored), len(accepted))
	}

	records := map[string]claims.Record{}
	e.read(js, "KV_"+source.ClaimsBucket("connections"), func(m *jetstream.RawStreamMsg) {
		var r claims.Record
		if err := json.Unmarshal(m.Data, &r); err != nil {
			e.t.Errorf("claim %s: %v", m.Subject, err)
		}
		records[m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]] = r
	})
	attempts := 0
	for _, key := range keys {
		if records[key].State != claims.Done {
			e.t.Errorf("claim %s is %q; want %q", key, records[key].State, claims.Done)
		}
		attempts += records[key].Attempts
	}
	if len(records) != len(keys) {
		e.t.Errorf("%d claims for %d events", len(records), len(keys))
	}

	// What the workers said themselves. The line that says done may be missing where one was killed.
	outcomes := e.heard()
	for id, times := range outcomes["done"] {
		if times != 1 {
			e.t.Errorf("%s was done %d times", id, times)
		}
	}
	if len(outcomes["done"]) < len(accepted)-cutOff {
		e.t.Errorf("the workers said of %d events that they are done; want %d, or %d less at most", len(outcomes["done"]), len(accepted), cutOff)
	}
	said := func(outcome string) (n int) {
		for _, times := range outcomes[outcome] {
			n += times
		}
		return n
	}
	// An event is tried again only when an attempt failed, lost its lease, or came to no end.
	again := attempts - len(accepted)
	if most := said("retry") + said("lease_lost") + said("claim_error") + cutOff; again > most {
		e.t.Errorf("%d attempts more than events; want %d at most", again, most)
	}

	effects := map[string]bool{}
	last := e.read(js, "KV_"+source.StateBucket("connections"), func(m *jetstream.RawStreamMsg) { effects[m.Subject] = true })
	if len(effects) != len(accepted) {
		e.t.Errorf("the state has %d connections; want %d, one of each event", len(effects), len(accepted))
	}
	// Each attempt writes once. The outcomes below count no attempt, because the failure was not the event's.
	if most := attempts + said("retry") + said("lease_lost") + said("returned") + said("claim_error"); int(last) > most {
		e.t.Errorf("%d effects; want %d at most, one of each attempt", last, most)
	}
	if n := e.read(js, source.DeadStream(), func(*jetstream.RawStreamMsg) {}); n != 0 {
		e.t.Errorf("%d dead letters; want none", n)
	}
	e.t.Logf("%d events stored, and done once; %d attempts failed, %d were lost, %d given back, %d had no claim; %d attempts and %d effects in all",
		len(stored), said("retry"), said("lease_lost"), said("returned"), said("claim_error"), attempts, last)
}

// read calls each with every message of a stream, and returns the stream's last sequence.
func (e *engine) read(js jetstream.JetStream, name string, each func(*jetstream.RawStreamMsg)) uint64 {
	e.t.Helper()
	last, err := stream.Read(e.ctx, js, name, stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
		each(m)
		return nil
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return last
}

// clear removes all that was made, also after the run's own time has passed.
func (e *engine) clear() {
	var cancel context.CancelFunc
	e.ctx, cancel = context.WithTimeout(context.Background(), 2*time.Minute)
	e.t.Cleanup(cancel)
	if e.t.Failed() {
		out, _ := e.try("docker", "compose", "logs", "--no-color", "--tail", "40")
		e.t.Logf("the end of what they said:\n%s", out)
	}
	if out, err := e.try("docker", "compose", "down", "-v", "--remove-orphans", "-t", "10"); err != nil {
		e.t.Errorf("compose down: %v\n%s", err, out)
	}
	_, _ = e.try("docker", "network", "rm", database) // where it was made
	e.hearing.Wait()
	after, _ := e.try("docker", "images", "-q", "--no-trunc", "--filter", "dangling=true")
	ours, _ := e.try("docker", "images", "-q", "--no-trunc", "--filter", "reference=headgate/*:"+project+"*")
	for _, id := range slices.Concat(strings.Fields(ours), strings.Fields(after), e.made) {
		if !e.before[id] {
			_, _ = e.try("docker", "image", "rm", "-f", id) // some are gone with others
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
