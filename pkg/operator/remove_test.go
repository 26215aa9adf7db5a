package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestRemoveWorker_LeavesNothingOfItAndAllOfOthers(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	streamtest.Provision(t, s.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{{Name: "mailer", Types: []codat.Pattern{">"}, State: []string{"mails"}}}})
	s.everything(acme, acme)
	for _, subject := range []string{source.ParkedSubject("mailer", "company.created"), source.DeadSubject("mailer", "company.created")} {
		s.send(&nats.Msg{Subject: subject, Data: []byte("{}")})
	}
	s.put("workers", "mailer.host-1", inspect.Instance{Worker: "mailer", Instance: "host-1"})
	s.put("workers", "bookkeeper.host-1", inspect.Instance{Worker: "bookkeeper", Instance: "host-1"})
	s.put("claims_mailer", "0123", map[string]any{"state": "done"})
	before := s.raw()

	r, err := s.FindWorker(t.Context(), "mailer")
	if err != nil || r.InUse != (InUse{Instances: 1, Waiting: 2}) || r.Parked != 1 || r.Letters != 1 || r.Claims != 1 || len(r.Consumers) != 2 {
		t.Fatalf("FindWorker = %+v, %v; want one of everything, an event and a parked copy that wait, and a process", r, err)
	}
	if _, err := s.RemoveWorker(t.Context(), r, false, false); !errors.Is(err, ErrInUse) {
		t.Fatalf("RemoveWorker = %v; want ErrInUse", err)
	}
	if _, err := s.RemoveWorker(t.Context(), r, true, false); err != nil {
		t.Fatal(err)
	}
	for place, text := range s.raw() {
		if strings.Contains(text, "mailer") && !strings.Contains(text, `"command"`) && !strings.Contains(text, source.DeadSubject("mailer", "company.created")) {
			t.Errorf("%s still has the worker:\n%s", place, text)
		}
	}
	after := s.raw()
	for place, text := range before {
		if !strings.Contains(text, "mailer") && after[place] != text && !strings.HasPrefix(place, "KV_CODAT_claims_mailer") {
			t.Errorf("%s was\n%s\nand is\n%s", place, text, after[place])
		}
	}
	var names []string
	for name := range s.JS.StreamNames(t.Context()).Name() {
		names = append(names, name)
	}
	if slices.Contains(names, "KV_CODAT_claims_mailer") || !slices.Contains(names, "KV_CODAT_mails") || !slices.Contains(names, "KV_CODAT_claims_bookkeeper") {
		t.Errorf("the streams are %v; want the worker's claims gone and its state kept", names)
	}
	if workers, err := stream.Workers(t.Context(), s.JS, source); err != nil || len(workers) != 1 || workers[0].Name != "bookkeeper" {
		t.Errorf("Workers = %v, %v; want the other one", workers, err)
	}
	if _, err := s.FindWorker(t.Context(), "mailer"); err == nil {
		t.Error("FindWorker = nil; want an error for a worker that has nothing")
	}
	if last := records(t, s.JS); last[len(last)-1].Command != "remove worker" || last[len(last)-1].Given != 1 {
		t.Errorf("the last record is %+v; want the removal", last[len(last)-1])
	}
}

// A removal that ended early is repeated: each part can be gone.
func TestRemoveWorker_GoesOn(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, gone := range []func() error{
		func() error { return s.JS.DeleteConsumer(t.Context(), source.Stream(), "bookkeeper") },
		func() error { return s.JS.DeleteConsumer(t.Context(), source.ParkedStream(), "bookkeeper") },
		func() error { return s.JS.DeleteKeyValue(t.Context(), source.ClaimsBucket("bookkeeper")) },
	} {
		if err := gone(); err != nil {
			t.Fatal(err)
		}
		r, err := s.FindWorker(t.Context(), "bookkeeper")
		if len(r.Consumers) == 0 && !r.bucket {
			break
		}
		if err == nil {
			_, err = s.RemoveWorker(t.Context(), r, false, true)
		}
		if err != nil {
			t.Errorf("RemoveWorker = %v", err)
		}
		streamtest.Provision(t, s.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{{Name: "bookkeeper", Types: []codat.Pattern{">"}}}})
	}
}

// What comes between the search and the removal, as while a person reads the question, counts.
func TestRemove_LooksAgainAtWhatIsInUse(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	worker, err := s.FindWorker(t.Context(), "bookkeeper")
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.FindSource(t.Context(), true)
	if err != nil || worker.InUse != (InUse{}) || all.InUse != (InUse{}) {
		t.Fatalf("FindWorker = %+v, FindSource = %+v, %v; want nothing in use", worker, all, err)
	}
	s.event(stream.Stored{ID: "msg_1", Head: codat.Head{Type: "company.created", Company: acme}}, "{}")
	if r, err := s.RemoveWorker(t.Context(), worker, false, false); !errors.Is(err, ErrInUse) || r.InUse.Waiting != 1 {
		t.Errorf("RemoveWorker = %+v, %v; want ErrInUse", r, err)
	}
	if r, err := s.RemoveSource(t.Context(), all, false); !errors.Is(err, ErrInUse) || len(r.Removed) != 0 {
		t.Errorf("RemoveSource = %+v, %v; want ErrInUse", r, err)
	}
	s.put(plan.StateName, plan.OpenPrefix+"03", map[string]int{"plan-1": 2})
	open, err := s.FindOpenPlans(t.Context())
	if err != nil || len(open.IDs) != 1 {
		t.Fatalf("FindOpenPlans = %+v, %v; want one", open, err)
	}
	s.put("workers", "writes.host-1", inspect.Instance{Worker: "writes", Instance: "host-1"})
	if err := s.StopPlans(t.Context(), open); !errors.Is(err, ErrInUse) {
		t.Errorf("StopPlans = %v; want ErrInUse", err)
	}
}

func TestRemoveWorker_RefusesAnothersDurable(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if _, err := s.JS.CreateConsumer(t.Context(), source.Stream(), jetstream.ConsumerConfig{Durable: "billing", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	for name, says := range map[string]string{"billing": "another service's", "nobody": "no worker", "A.*": "name"} {
		if _, err := s.FindWorker(t.Context(), name); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("FindWorker(%q) = %v; want %q", name, err, says)
		}
	}
}

func TestRemoveSource_LeavesOtherSources(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const uk = stream.Source("codat-uk")
	streamtest.Provision(t, s.JS, stream.Layout{Source: uk, Workers: []stream.WorkerSpec{{Name: "bookkeeper", Types: []codat.Pattern{">"}, State: []string{"connections"}}}})
	s.everything(acme, acme)
	s.send(&nats.Msg{Subject: "codat-uk.events.company.created", Data: []byte("{}")})
	count := func(prefix string) (n int) {
		for name := range s.JS.StreamNames(t.Context()).Name() {
			if strings.HasPrefix(strings.TrimPrefix(name, "KV_"), prefix) {
				n++
			}
		}
		return n
	}
	all, ours := count("CODAT"), count("CODAT_UK")
	o, err := New(s.JS, uk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	r, err := o.FindSource(t.Context(), false)
	if err != nil || len(r.Streams) != ours-1 || r.InUse != (InUse{Waiting: 1}) {
		t.Fatalf("FindSource = %+v, %v; want the source's streams but the records, and an event that waits", r, err)
	}
	if _, err := o.RemoveSource(t.Context(), r, false); !errors.Is(err, ErrInUse) {
		t.Fatalf("RemoveSource = %v; want ErrInUse", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := o.RemoveSource(ended, r, true); err == nil || len(r.Removed) != 0 {
		t.Errorf("RemoveSource = %+v, %v; want an interrupt before the first", r, err)
	}
	r, err = o.RemoveSource(t.Context(), r, true)
	if err != nil || len(r.Removed) != ours-1 || r.Removed[len(r.Removed)-1] != "CODAT_UK" {
		t.Errorf("RemoveSource = %+v, %v; want all removed, the events last", r, err)
	}
	if n := count("CODAT"); n != all-ours+1 {
		t.Errorf("%d streams are left; want %d: those of the other source, and the records", n, all-ours+1)
	}
	if r, err = o.FindSource(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if _, err = o.RemoveSource(t.Context(), r, false); err != nil || count("CODAT_UK") != 0 {
		t.Errorf("with the records RemoveSource = %v, and %d streams are left; want none", err, count("CODAT_UK"))
	}
	if _, err := o.FindSource(t.Context(), true); err == nil {
		t.Error("FindSource = nil; want an error for a source that has nothing")
	}
}

func TestStopPlans_EmptiesTheListsWhileTheWorkerIsStopped(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	want := []string{}
	for i := range 3 {
		id := fmt.Sprintf("plan-%d", i)
		s.put(plan.StateName, plan.OpenPrefix+fmt.Sprintf("%02d", i%2), map[string]int{id: 1})
		if i > 0 {
			want = append(want, id)
		}
	}
	s.put(plan.StateName, "plan-1", map[string]any{"plan": map[string]any{"company": acme}})
	s.put("workers", "writes.host-1", inspect.Instance{Worker: "writes", Instance: "host-1"})
	if _, err := s.FindOpenPlans(t.Context()); !errors.Is(err, ErrInUse) {
		t.Fatalf("FindOpenPlans = %v; want ErrInUse while the worker runs", err)
	}
	if _, err := stream.PurgeSubjects(t.Context(), s.JS, "KV_CODAT_workers", "$KV.CODAT_workers.>"); err != nil {
		t.Fatal(err)
	}
	open, err := s.FindOpenPlans(t.Context())
	if err != nil || !slices.Equal(open.IDs, want) {
		t.Fatalf("FindOpenPlans = %v, %v; want %v", open.IDs, err, want)
	}
	s.put(plan.StateName, plan.OpenPrefix+"00", map[string]int{"plan-2": 2})
	if err := s.StopPlans(t.Context(), open); err == nil {
		t.Error("StopPlans = nil; want an error, because a list has changed meanwhile")
	}
	if open, err = s.FindOpenPlans(t.Context()); err == nil {
		err = s.StopPlans(t.Context(), open)
	}
	if err != nil {
		t.Fatalf("StopPlans = %v", err)
	}
	if open, err := s.FindOpenPlans(t.Context()); err != nil || len(open.IDs) != 0 {
		t.Errorf("FindOpenPlans = %v, %v; want none", open, err)
	}
}

func TestStepDown_RefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if _, err := s.StepDown(t.Context(), source.Stream()); !errors.Is(err, stream.ErrOneCopy) {
		t.Errorf("StepDown = %v; want ErrOneCopy", err)
	}
	if _, err := s.StepDown(t.Context(), "OTHER"); err == nil || !strings.Contains(err.Error(), "headgate streams") {
		t.Errorf("StepDown = %v; want an error for a stream that is not the source's", err)
	}
}

func TestStepDown_MovesTheLeader(t *testing.T) {
	t.Parallel()
	c := streamtest.NewCluster(t)
	o, err := New(c.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, name := range []string{source.Stream(), "KV_" + source.WorkersBucket()} {
		l, err := o.StepDown(ctx, name)
		if err != nil || l.Before == "" || l.Now == "" || l.Before == l.Now {
			t.Fatalf("StepDown(%s) = %+v, %v; want another leader", name, l, err)
		}
		if now := c.NodeName(c.LeaderOf(name)); now != l.Now {
			t.Errorf("%s leads %s; want %s", now, name, l.Now)
		}
		all, err := inspect.Copies(ctx, c.JS, source, false)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(all, func(s inspect.StreamCopies) bool { return s.Name == name })
		if i < 0 || all[i].Leader != l.Now || !slices.Contains(all[i].Followers, l.Before) || len(all[i].Followers) != 2 {
			t.Errorf("Copies = %+v; want %s to lead %s, and %s among the others", all, l.Now, name, l.Before)
		}
	}
}
