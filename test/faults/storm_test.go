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

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/stream"
)

var seed = flag.Uint64("seed", 0, "of random choices; 0 draws one")

// stormLease is longer than an election, so that a success before it can be saved after it.
const stormLease = 12 * time.Second

// Three replicas of a worker on a cluster of three nodes handle ten thousand events, while workers and nodes are killed, cut
// off, frozen and restarted one after the other. In the end the audit finds no exception and agrees with the effects. Every
// event that is done has one effect of the attempt in its claim. It has another effect only of an earlier attempt that was
// cut off between its effect and done: its process was killed, or logged that it could not save the claim. No success is
// saved twice.
func TestPromise6_StormSettlesEveryEventOnce(t *testing.T) {
	s := newStorm(t, 10_000, false)
	s.rage([]fault{
		{s.killWorker, 6},
		{s.restartWorker, 2},
		{s.cutWorker, 2},
		{s.loseWorker, 1},
		{s.freezeWorker, 1},
		{s.killNode, 2},
		{s.killLeader, 2},
		{s.cutNode, 2},
		{s.cutNodeAndItsClients, 1},
	})
	s.judge()
}

// The same with claims in PostgreSQL and effects in their transactions: every event that is done has exactly one effect, and
// no other event has one.
func TestPromise6_StormCommitsEveryEffectInPostgreSQLOnce(t *testing.T) {
	s := newStorm(t, 3000, true)
	s.rage([]fault{
		{s.killWorker, 5},
		{s.restartWorker, 1},
		{s.cutWorker, 1},
		{s.loseWorker, 1},
		{s.freezeWorker, 1},
		{s.killNode, 1},
		{s.killLeader, 1},
		{s.cutNode, 1},
		{s.endSessions, 3},
	})
	s.judge()
}

// A fault and how often it happens.
type fault struct {
	happen func()
	times  int
}

func newStorm(t testing.TB, events int, postgres bool) *storm {
	t.Helper()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("the same choices again: go test -tags faults ./test/faults -run %s -seed %d", t.Name(), *seed)
	plan := counterPlan
	plan.AckWait = stormLease
	b := newBroker(t, nodes, stream.Layout{Workers: []stream.WorkerSpec{plan}})
	s := &storm{
		replicas: &replicas{t: t, b: b, effects: filepath.Join(t.TempDir(), "effects")},
		events:   events, random: rand.New(rand.NewPCG(*seed, 0)), began: time.Now(), frozen: map[int]bool{},
	}
	if postgres {
		s.database = newDatabase(b)
	}
	for i := range 3 {
		name := fmt.Sprintf("counter-%d", i)
		var args []string
		if postgres {
			args = []string{"--database", s.database.through(name)}
		}
		s.add(name, b.through(name), "debug", 30*time.Millisecond, stormLease, args...)
	}
	return s
}

// rage causes the faults in random order and waits until all events are settled.
func (s *storm) rage(of []fault) {
	s.t.Helper()
	var faults []func()
	for _, f := range of {
		for range f.times {
			faults = append(faults, f.happen)
		}
	}
	s.random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })

	// Each fault has its share of the events: some before it, so that handlers run, and some while it lasts.
	release, posted := s.post(s.events)
	share := s.events / (2*len(faults) + 1)
	for _, happen := range faults {
		release(share)
		s.progress(share / 3)
		s.during = func() {
			release(share)
			s.progress(share / 3)
		}
		happen()
	}
	release(s.events - 2*share*len(faults))
	posted()
	s.say("all events are posted")
	s.b.waitReady()
	s.say("all nodes are ready")
	s.waitSettled()
	for _, replica := range s.replica {
		if code := replica.stop(); code != 0 {
			s.t.Errorf("%s ended with %d; want 0", replica.name, code)
		}
	}
	s.say("all events are at their ends")
}

// A storm is replicas that go through faults.
type storm struct {
	*replicas
	events   int
	database *database // of the claims and effects; nil when the claims are in their bucket
	random   *rand.Rand
	began    time.Time
	during   func()       // what is waited for while a fault lasts
	frozen   map[int]bool // processes that were, by pid
}

// post starts posters. release lets them post that many more events; posted waits until all n are posted.
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

// A worker is killed and starts again, at once or after a while.
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

// A worker is cut off until others have taken its events over.
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
	s.frozen[victim.cmd.Process.Pid] = true
	victim.signal(syscall.SIGSTOP)
	s.outlast()
	victim.signal(syscall.SIGCONT)
}

// outlast waits until every current lease is over.
func (s *storm) outlast() {
	s.t.Helper()
	over := time.After(stormLease + claims.ClockSkew)
	s.during()
	<-over
}

// The database ends all sessions, including those that are committing.
func (s *storm) endSessions() {
	s.say("the database ends %d sessions", s.database.endSessions())
	s.during()
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

// A node is cut off from the others and cannot answer its clients.
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

// cutOff cuts a node off until the others have elected new leaders and the workers go on.
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

// minority returns a healthy node that this test is not connected to, and that leads something if there is one.
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

// leaders returns the nodes that lead the events, the worker's consumer and its claims.
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

// An attempt is one run of a handler: its process, its event, and its number in the claim.
type attempt struct {
	pid int
	id  string
	n   int
}

func (e effect) by() attempt { return attempt{e.pid, e.id, e.attempt} }

// An account is what the logs of the processes say, and which processes were killed.
type account struct {
	ends    map[attempt]map[string]int // how often each outcome
	process map[string]int             // pids, by the name of the instance in claims
	killed  map[int]bool
	kills   int
}

func (a account) ended(by attempt) (times int) {
	for _, n := range a.ends[by] {
		times += n
	}
	return times
}

// unrecorded reports whether an attempt ended and its claim could not be saved.
func (a account) unrecorded(by attempt) bool {
	outcomes := a.ends[by]
	return outcomes["lease_lost"]+outcomes["claim_error"] > 0 && outcomes["done"] == 0
}

// died reports whether an attempt did not end because its process was killed.
func (a account) died(by attempt) bool { return a.killed[by.pid] && a.ended(by) == 0 }

// judge compares the effects of each event with its claim, and runs the audit.
func (s *storm) judge() {
	s.t.Helper()
	said := s.account()
	s.judgeEnds(said)
	var store claims.Store = s.claims()
	effects := map[string][]effect{} // by id, in their order
	refusals := map[string][]effect{}
	for _, run := range s.all() {
		switch {
		case run.outcome == "dead":
			refusals[run.id] = append(refusals[run.id], run)
		case run.outcome == "done" && s.database == nil:
			effects[run.id] = append(effects[run.id], run)
		}
	}
	if s.database != nil {
		store = s.database.claims()
		for _, e := range s.database.effects() {
			effects[e.id] = append(effects[e.id], e)
		}
	}

	var count []effect // all but those of attempts that were cut off
	again := 0
	for n := range s.events {
		id := idOf(n)
		want := claims.Done
		if strings.HasPrefix(id, "msg_dead") {
			want = claims.Dead
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		record, err := store.Get(ctx, claims.Key{WebhookID: id})
		cancel()
		if err != nil || record.State != want {
			s.t.Errorf("%s is %q, %v; want %s", id, record.State, err, want)
		}
		if want == claims.Dead {
			whole := slices.DeleteFunc(slices.Clone(refusals[id]), func(e effect) bool { return said.unrecorded(e.by()) || said.died(e.by()) })
			if len(effects[id]) != 0 || len(refusals[id]) == 0 || len(whole) > 1 {
				s.t.Errorf("%s has the effects %+v and was refused by %+v; want no effect, and one refusal that was not cut off", id, effects[id], refusals[id])
			}
			continue
		}
		instance, _, _ := strings.Cut(record.Owner, ".")
		recorded := attempt{said.process[instance], id, record.Attempts}
		at := slices.IndexFunc(effects[id], func(e effect) bool { return e.by() == recorded })
		if at < 0 {
			s.t.Errorf("%s was done by %+v, and has no effect of that; it has %+v", id, recorded, effects[id])
		}
		for i, e := range effects[id] {
			// A killed process has no effect after another has taken over, unless it was frozen meanwhile.
			cutOff := said.unrecorded(e.by()) || said.died(e.by()) && (i < at || s.frozen[e.pid])
			if i != at && s.database == nil && cutOff && e.attempt < record.Attempts {
				again++
				continue
			}
			count = append(count, e)
			if i != at {
				s.t.Errorf("%s was done by %+v, and has one more effect: %+v, of which its process said %v", id, recorded, e, said.ends[e.by()])
			}
		}
	}
	s.t.Logf("%d runs for %d events; %d effects count, %d are of attempts that were cut off", s.lines(), s.events, len(count), again)
	s.audit(count)
}

// judgeEnds checks that every run ended unless a kill cut it off, and that no success was saved twice.
func (s *storm) judgeEnds(said account) {
	s.t.Helper()
	runs := map[attempt]int{}
	for _, e := range s.all() {
		runs[e.by()]++
	}
	open, inKills := map[int]int{}, 0 // by process
	for by, n := range runs {
		if n -= said.ended(by); n <= 0 {
			continue
		}
		if open[by.pid] += n; !said.killed[by.pid] {
			s.t.Errorf("a process that was not killed ran %+v %d times without an end", by, n)
		}
	}
	for pid, n := range open {
		inKills += n
		if n > slots {
			s.t.Errorf("process %d, which was killed, left %d runs without an end; want at most the %d that can run at once", pid, n, slots)
		}
	}
	unrecorded, recorded := 0, map[string]int{} // by id
	for by, outcomes := range said.ends {
		if recorded[by.id] += outcomes["done"]; recorded[by.id] > 1 {
			s.t.Errorf("the success of %s was recorded %d times; want once", by.id, recorded[by.id])
		}
		if said.unrecorded(by) {
			unrecorded++
		}
	}
	s.t.Logf("%d runs were cut off by %d kills, and %d could not be recorded", inKills, said.kills, unrecorded)
}

// account reads the logs.
func (s *storm) account() account {
	s.t.Helper()
	a := account{ends: map[attempt]map[string]int{}, process: map[string]int{}, killed: map[int]bool{}}
	for _, p := range s.replica {
		text, err := os.ReadFile(p.log)
		if err != nil {
			s.t.Fatal(err)
		}
		for i, l := range p.lives {
			if a.killed[l.pid] = l.killed; l.killed {
				a.kills++
			}
			end := int64(len(text))
			if i+1 < len(p.lives) {
				end = p.lives[i+1].log
			}
			for line := range bytes.Lines(text[l.log:end]) {
				var said struct {
					Instance string `json:"instance"`
					Outcome  string `json:"outcome"`
					ID       string `json:"id"`
					Attempt  int    `json:"attempt"`
				}
				if err := json.Unmarshal(line, &said); err != nil {
					s.t.Errorf("line %q of the log of %s: %v", line, p.name, err)
					continue
				}
				if said.Instance != "" {
					a.process[said.Instance] = l.pid
				}
				if said.Attempt > 0 {
					by := attempt{l.pid, said.ID, said.Attempt}
					if a.ends[by] == nil {
						a.ends[by] = map[string]int{}
					}
					a.ends[by][said.Outcome]++
				}
			}
		}
	}
	return a
}

// audit runs headgate audit with the posted events and the counted effects as expectations.
func (s *storm) audit(effects []effect) {
	s.t.Helper()
	var expect bytes.Buffer
	dead := 0
	for n := range s.events {
		fmt.Fprintln(&expect, idOf(n))
		if strings.HasPrefix(idOf(n), "msg_dead") {
			dead++
		}
	}
	for _, e := range effects {
		fmt.Fprintf(&expect, "{\"webhook_id\":%q,\"worker\":\"counter\"}\n", e.id)
	}
	args := []string{"audit", "--nats-url", s.b.url, "--expect", "-", "--json"}
	if s.database != nil {
		args = append(args, "--postgres", "counter="+s.database.DSN)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var says, why bytes.Buffer
	var err error
	s.say("the audit begins")
	wait(s.t, func() bool {
		says.Reset()
		why.Reset()
		cmd := exec.CommandContext(ctx, build(s.t, "headgate"), args...)
		cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environment(), bytes.NewReader(expect.Bytes()), &says, &why
		err = cmd.Run()
		return err == nil || !bytes.Contains(says.Bytes(), []byte("unread-copy"))
	}, what("every copy is up to date and audited"))
	if err != nil {
		s.t.Errorf("headgate audit: %v\n%s%s", err, &says, &why)
		return
	}
	s.say("the audit ends")
	var report audit.Report
	if err := json.Unmarshal(says.Bytes(), &report); err != nil || len(report.Workers) != 1 {
		s.t.Fatalf("headgate audit says %s: %v; want one worker", &says, err)
	}
	want := audit.Worker{Name: "counter", Events: s.events, Done: len(effects), Dead: dead}
	if got := report.Workers[0]; got.Events != want.Events || got.Done != want.Done || got.Dead != want.Dead || report.Stored != s.events {
		s.t.Errorf("headgate audit says %d stored, %+v; want %d and %+v", report.Stored, got, s.events, want)
	}
	for id, n := range letters(s.t, s.b.js) {
		if n != 1 {
			s.t.Errorf("%s has %d dead letters; want one", id, n)
		}
	}
}
