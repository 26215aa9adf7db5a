//go:build faults

package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/audit"
)

var seed = flag.Uint64("seed", 0, "of random choices; 0 draws one")

const (
	stormEvents = 10_000
	// stormLease is longer than an election, so that what was done before it can be recorded after it.
	stormLease = 12 * time.Second
)

// Three replicas of a worker on a cluster of three nodes work on ten thousand events. Meanwhile workers and nodes are
// killed, cut off, frozen and restarted, one after the other. In the end the audit finds nothing wrong and says the same
// as the effects: every event has its effect, and has it again only where a handler was cut off between its effect and
// the record of it. Either its process was killed at that moment, or it could not record it while its lease lasted, and
// said so. No success is recorded twice.
func TestPromise6_WhateverFailsEveryEventHasOneEnd(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("the same choices again: go test -tags faults ./test/faults -run %s -seed %d", t.Name(), *seed)
	plan := counterPlan
	plan.AckWait = stormLease
	b := newBroker(t, nodes, stream.Plan{Workers: []stream.WorkerPlan{plan}})
	s := &storm{
		crew:   &crew{t: t, b: b, effects: filepath.Join(t.TempDir(), "effects")},
		random: rand.New(rand.NewPCG(*seed, 0)), began: time.Now(),
	}
	for i := range 3 {
		name := fmt.Sprintf("counter-%d", i)
		s.hire(name, b.through(name), "debug", 30*time.Millisecond, stormLease)
	}

	var faults []func()
	for _, f := range []struct {
		fault func()
		times int
	}{
		{s.killWorker, 6},
		{s.restartWorker, 2},
		{s.cutWorker, 2},
		{s.loseWorker, 1},
		{s.freezeWorker, 1},
		{s.killNode, 2},
		{s.killLeader, 2},
		{s.cutNode, 2},
		{s.cutNodeAndItsClients, 1},
	} {
		for range f.times {
			faults = append(faults, f.fault)
		}
	}
	s.random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })

	// Each fault has its share of the events: some before, so that it finds handlers at work, and some while it lasts.
	release, posted := s.post(stormEvents)
	share := stormEvents / (2*len(faults) + 1)
	for _, fault := range faults {
		release(share)
		s.progress(share / 3)
		s.during = func() {
			release(share)
			s.progress(share / 3)
		}
		fault()
	}
	release(stormEvents - 2*share*len(faults))
	posted()
	s.say("all events are posted")
	b.waitReady()
	s.say("all nodes are ready")
	s.waitSettled()
	for _, replica := range s.replica {
		if code := replica.stop(); code != 0 {
			t.Errorf("%s ended with %d; want 0", replica.name, code)
		}
	}
	s.say("all events are at their ends")
	s.judge()
	s.audit()
}

// A storm is a crew that goes through faults.
type storm struct {
	*crew
	random *rand.Rand
	began  time.Time
	during func() // what is waited for while a fault lasts
}

// post makes posters. release lets them post so many events more; posted waits until all n are.
func (s *storm) post(n int) (release func(int), posted func()) {
	s.t.Helper()
	publisher, err := stream.NewPublisher(s.b.js.Conn(), stream.PublisherOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	events := make(chan int, n)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for event := range events {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				if err := postOne(ctx, publisher, event); err != nil {
					s.t.Error(err)
				}
				cancel()
			}
		})
	}
	end := sync.OnceFunc(func() {
		close(events)
		wg.Wait()
		publisher.Close()
	})
	s.t.Cleanup(end)
	next := 0
	release = func(more int) {
		for range more {
			events <- next
			next++
		}
	}
	return release, end
}

// progress waits until the handlers have run n times more.
func (s *storm) progress(n int) {
	s.t.Helper()
	s.waitRuns(s.lines() + n)
}

func (s *storm) say(format string, args ...any) {
	s.t.Helper()
	s.t.Logf("%4.0f s, %5d runs: "+format, append([]any{time.Since(s.began).Seconds(), s.lines()}, args...)...)
}

func (s *storm) worker() *program { return s.replica[s.random.IntN(len(s.replica))] }

// A worker is killed. It comes back at once, or the others go on without it for a while.
func (s *storm) killWorker() {
	victim := s.worker()
	s.say("%s is killed", victim.name)
	victim.kill()
	if s.random.IntN(2) == 0 {
		victim.start()
		s.during()
		return
	}
	s.during()
	victim.start()
}

func (s *storm) restartWorker() {
	victim := s.worker()
	s.say("%s is restarted", victim.name)
	if code := victim.stop(); code != 0 {
		s.t.Errorf("%s ended with %d; want 0", victim.name, code)
	}
	victim.start()
	s.during()
}

func (s *storm) cutWorker() {
	victim := s.worker()
	s.say("%s is cut off", victim.name)
	mend := s.b.cut(victim.name, all)
	s.during()
	mend()
}

// A worker is cut off until others have taken its events over. When it comes back it is late.
func (s *storm) loseWorker() {
	victim := s.worker()
	s.say("%s is cut off for longer than its lease", victim.name)
	mend := s.b.cut(victim.name, all)
	s.outlast()
	mend()
}

func (s *storm) freezeWorker() {
	victim := s.worker()
	s.say("%s freezes for longer than its lease", victim.name)
	victim.signal(syscall.SIGSTOP)
	s.outlast()
	victim.signal(syscall.SIGCONT)
}

// outlast waits until every lease that is held now has run out.
func (s *storm) outlast() {
	s.t.Helper()
	over := time.After(stormLease + workers.Grace)
	s.during()
	<-over
}

func (s *storm) killNode() {
	victim := s.b.node[s.random.IntN(nodes)]
	s.say("%s is killed", victim.name)
	s.killed(victim)
}

func (s *storm) killLeader() {
	var leaders []string
	wait(s.t, func() bool {
		var err error
		leaders, err = s.leaders()
		return err == nil
	}, what("there are leaders"))
	victim := s.b.byName(leaders[s.random.IntN(len(leaders))])
	s.say("%s is killed, which leads", victim.name)
	s.killed(victim)
}

func (s *storm) killed(node *program) {
	node.kill()
	s.during()
	node.start()
	s.b.waitReady()
}

// A node and the others lose each other. Whom it serves, it cannot answer.
func (s *storm) cutNode() {
	victim := s.minority(func(node *program) bool {
		for _, replica := range s.replica {
			if !s.b.connected(replica.name, node.name) {
				return true
			}
		}
		return false
	})
	s.say("%s is cut off from the other nodes", victim.name)
	s.cutOff(victim, func(other string) bool { return strings.HasPrefix(other, "nats") })
}

func (s *storm) cutNodeAndItsClients() {
	victim := s.minority(func(*program) bool { return true })
	s.say("%s is cut off from the other nodes and its clients", victim.name)
	s.cutOff(victim, all)
}

func all(string) bool { return true }

// cutOff cuts a node off until the others have elected in its place, and go on.
func (s *storm) cutOff(node *program, from func(other string) bool) {
	s.t.Helper()
	mend := s.b.cut(node.name, from)
	wait(s.t, func() bool {
		leaders, err := s.leaders()
		return err == nil && !slices.Contains(leaders, node.name)
	}, what("the other nodes elect"))
	s.during()
	mend()
	s.b.waitReady()
}

// minority is a node that can be cut off while others go on: this test is not connected to it, and it is fit. It is one
// that leads something if there is such a one.
func (s *storm) minority(fit func(*program) bool) *program {
	s.t.Helper()
	var found *program
	wait(s.t, func() bool {
		leaders, err := s.leaders()
		if err != nil {
			return false
		}
		for _, i := range s.random.Perm(nodes) {
			node := s.b.node[i]
			if s.b.js.Conn().ConnectedAddr() == s.b.clients[i] || !fit(node) {
				continue
			}
			if found == nil || slices.Contains(leaders, node.name) {
				found = node
			}
		}
		return found != nil
	}, what("there is a node without which the others can go on"))
	return found
}

// leaders are the nodes that lead the events, the worker's consumer and its claims.
func (s *storm) leaders() ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var leaders []string
	add := func(c *jetstream.ClusterInfo) error {
		if c == nil || c.Leader == "" {
			return errors.New("without a leader")
		}
		leaders = append(leaders, c.Leader)
		return nil
	}
	for _, name := range []string{source.Stream(), "KV_" + source.ClaimsBucket("counter")} {
		st, err := s.b.js.Stream(ctx, name)
		if err != nil {
			return nil, err
		}
		if err := add(st.CachedInfo().Cluster); err != nil {
			return nil, err
		}
	}
	consumer, err := s.b.js.Consumer(ctx, source.Stream(), "counter")
	if err != nil {
		return nil, err
	}
	return leaders, add(consumer.CachedInfo().Cluster)
}

// judge compares, for each event, what its handler did with what became of it. What a process said of a delivery's end
// is in its log.
func (s *storm) judge() {
	s.t.Helper()
	type work struct {
		pid int
		id  string
	}
	ends := map[work]map[string]int{} // by the fate
	killed := map[int]bool{}          // by process
	kills := 0
	for _, replica := range s.replica {
		for _, l := range replica.lives {
			killed[l.pid] = l.killed
			if l.killed {
				kills++
			}
		}
		s.fates(replica, func(pid int, id, fate string) {
			w := work{pid, id}
			if ends[w] == nil {
				ends[w] = map[string]int{}
			}
			ends[w][fate]++
		})
	}

	recorded := map[string]int{} // successes, by id
	for w, fates := range ends {
		recorded[w.id] += fates["done"]
	}
	runs := map[work]int{}
	for _, e := range s.all() {
		runs[work{e.pid, e.id}]++
	}
	open := map[string]int{} // runs whose end nobody recorded, by id
	unsaid, cutOff := map[int]int{}, 0
	for w, n := range runs {
		fates := ends[w]
		if n -= fates["done"] + fates["dead"] + fates["later"] + fates["parked"]; n <= 0 {
			continue
		}
		open[w.id] += n
		said := min(n, fates["lost"]+fates["unclaimed"]+fates["givenback"])
		cutOff += said
		if n -= said; n == 0 {
			continue
		}
		if unsaid[w.pid] += n; !killed[w.pid] {
			s.t.Errorf("a process that was not killed ran %s %d times without an end", w.id, n)
		}
	}
	inKills := 0
	for pid, n := range unsaid {
		inKills += n
		if n > slots {
			s.t.Errorf("process %d, which was killed, left %d runs without an end; want at most the %d that can run at once", pid, n, slots)
		}
	}

	outcomes := s.runs()
	for n := range stormEvents {
		id := idOf(n)
		done := outcomes["done"][id]
		if strings.HasPrefix(id, "msg_dead") {
			if done != 0 || outcomes["dead"][id] == 0 {
				s.t.Errorf("%s was done %d times and refused %d times; want it refused", id, done, outcomes["dead"][id])
			}
			continue
		}
		switch {
		case done == 0:
			s.t.Errorf("%s has no effect", id)
		case recorded[id] > 1:
			s.t.Errorf("the success of %s was recorded %d times; want once", id, recorded[id])
		case done-recorded[id] > open[id]:
			s.t.Errorf("%s has %d effects, of which %d are recorded and %d were cut off before", id, done, recorded[id], open[id])
		case recorded[id] == 0 && open[id] == 0:
			s.t.Errorf("%s has an effect, and nobody recorded it", id)
		}
	}
	s.t.Logf("%d runs for %d events; %d were cut off by %d kills, and %d could not be recorded", s.lines(), stormEvents, inKills, kills, cutOff)
}

// fates calls each with every end of an attempt that a program's log tells of.
func (s *storm) fates(p *program, each func(pid int, id, fate string)) {
	s.t.Helper()
	text, err := os.ReadFile(p.log)
	if err != nil {
		s.t.Fatal(err)
	}
	for i, l := range p.lives {
		end := int64(len(text))
		if i+1 < len(p.lives) {
			end = p.lives[i+1].log
		}
		for line := range bytes.Lines(text[l.log:end]) {
			var said struct {
				Fate    string `json:"fate"`
				ID      string `json:"id"`
				Attempt int    `json:"attempt"`
			}
			if err := json.Unmarshal(line, &said); err != nil {
				s.t.Errorf("line %q of the log of %s: %v", line, p.name, err)
				continue
			}
			if said.Attempt > 0 {
				each(l.pid, said.ID, said.Fate)
			}
		}
	}
}

// audit has the real command compare what it finds with what was posted and with the effects, each of which counts once.
func (s *storm) audit() {
	s.t.Helper()
	var expect bytes.Buffer
	outcomes := s.runs()
	done, dead := 0, 0
	for n := range stormEvents {
		id := idOf(n)
		fmt.Fprintln(&expect, id)
		if strings.HasPrefix(id, "msg_dead") {
			dead++
		}
		if outcomes["done"][id] > 0 {
			done++
			fmt.Fprintf(&expect, "{\"webhook_id\":%q,\"worker\":\"counter\"}\n", id)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, build(s.t, "headgate"), "audit", "--nats-url", s.b.url, "--expect", "-", "--json")
	cmd.Env, cmd.Stdin = environment(), &expect
	var says, why bytes.Buffer
	cmd.Stdout, cmd.Stderr = &says, &why
	s.say("the audit begins")
	if err := cmd.Run(); err != nil {
		s.t.Errorf("headgate audit: %v\n%s%s", err, &says, &why)
		return
	}
	s.say("the audit ends")
	var report audit.Report
	if err := json.Unmarshal(says.Bytes(), &report); err != nil || len(report.Workers) != 1 {
		s.t.Fatalf("headgate audit says %s: %v; want one worker", &says, err)
	}
	want := audit.Worker{Name: "counter", Events: stormEvents, Done: done, Dead: dead}
	if got := report.Workers[0]; got.Events != want.Events || got.Done != want.Done || got.Dead != want.Dead || report.Stored != stormEvents {
		s.t.Errorf("headgate audit says %d stored, %+v; want %d and %+v", report.Stored, got, stormEvents, want)
	}
	for id, n := range letters(s.t, s.b.js) {
		if n != 1 {
			s.t.Errorf("%s has %d dead letters; want one", id, n)
		}
	}
}
