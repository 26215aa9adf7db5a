package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

var consumerChecks = []check{
	{"HG-CON-001", "consumers", "all that headgate provision makes exist", "doctor-provisioning", provision, (*facts).consumersExist},
	{"HG-CON-002", "settings of consumers", "as headgate provision makes them", "doctor-provisioning", provision, (*facts).consumersAgree},
	{"HG-CON-003", "leaders of consumers", "each consumer answers and has one", "headgatenoleader", consumers, (*facts).consumerLeaders},
	{"HG-CON-004", "places of unsettled deliveries", "under 80 % of each consumer's", "headgateackpending", consumers, (*facts).places},
	{"HG-CON-005", "places of parked events", "fewer wait for a worker than 80 % of its places", "headgateackpending", consumers, (*facts).parkedPlaces},
	{"HG-CON-006", "pauses of consumers", "no consumer is paused", "headgateconsumerpaused", consumers, (*facts).paused},
}

var workerChecks = []check{
	{"HG-WRK-001", "running workers", "something takes what waits for a consumer", "headgatenopullers", consumers, (*facts).running},
	{"HG-WRK-002", "versions of workers", "all processes of a worker have the same", "upgrade", instances, (*facts).workerVersions},
	{"HG-WRK-003", "breakers of workers", "no worker has paused for more than 15 min", "headgatebreakeropen", instances, (*facts).breakers},
	{"HG-WRK-004", "claims of workers", "each process can read and take claims", "headgateclaimerrors", instances, (*facts).claims},
	{"HG-WRK-005", "lag and oldest unsettled event", "under 1 h; fails over 12 h or half of the retention", "headgateoldestunsettled", consumers, (*facts).oldestUnsettled},
	{"HG-WRK-006", "dead letters", "none of a worker in the last hour; fails over 100", "headgatedeadletters", messages, (*facts).deadLetters},
	{"HG-WRK-007", "parked events", "none waits for more than a day", "headgateparkedlong", streams, (*facts).parkedLong},
	{"HG-WRK-008", "handlers", "none goes on after its time", "headgatestuckhandlers", processes, (*facts).stuckHandlers},
}

func (f *facts) consumersExist() finding {
	missing, of := f.changesOf(true, stream.Create)
	for _, c := range f.snapshot.Consumers {
		if object := "consumer " + c.Name + " on " + c.Stream; c.Missing && !slices.Contains(missing, object) {
			missing = append(missing, object)
		}
	}
	if len(missing) > 0 {
		return fail("missing: "+listed(missing), provisionCure+"; a new one skips no event")
	}
	return ok(fmt.Sprintf("%d exist", of))
}

func (f *facts) consumersAgree() finding { return f.agree(true) }

// eachConsumer examines the consumers that answer. bad returns what is wrong with one, and "" when nothing is.
func (f *facts) eachConsumer(bad func(inspect.Consumer) string) (wrong []string, of int) {
	for _, c := range f.snapshot.Consumers {
		if !c.Answered {
			continue
		}
		of++
		if problem := bad(c); problem != "" {
			wrong = append(wrong, c.Name+" on "+c.Stream+" "+problem)
		}
	}
	return wrong, of
}

// consumerFinding is ok when nothing is wrong, and skipped when no consumer answers.
func consumerFinding(failure bool, wrong []string, of int, good, cure string) finding {
	if of == 0 {
		return skip("no consumer of the source answers")
	}
	if len(wrong) > 0 {
		return graded(failure, true, listed(wrong), cure)
	}
	return ok(good)
}

func (f *facts) consumerLeaders() finding {
	var without []string
	n := 0
	for _, c := range f.snapshot.Consumers {
		if c.Missing {
			continue
		}
		if n++; !c.HasLeader {
			without = append(without, c.Name+" on "+c.Stream)
		}
	}
	return consumerFinding(true, without, n, fmt.Sprintf("%d have one", n), "more than half of the servers that have a copy must run and reach each other")
}

func (f *facts) places() finding {
	wrong, of := f.eachConsumer(func(c inspect.Consumer) string {
		// An ordered worker has one place, which is taken while it works.
		if part := float64(c.AckPending) / float64(c.AckPendingLimit); c.AckPendingLimit > 1 && part > placesUsed {
			return "uses " + percent(part)
		}
		return ""
	})
	return consumerFinding(false, wrong, of, fmt.Sprintf("%d consumers", of), "fewer replicas or a lower HEADGATE_CONCURRENCY; repair what its handlers wait for")
}

func (f *facts) parkedPlaces() finding {
	wrong, of := f.eachConsumer(func(c inspect.Consumer) string {
		if c.Stream != f.Source.ParkedStream() || c.AckPendingLimit <= 1 {
			return ""
		}
		if part := float64(c.Pending) / float64(c.AckPendingLimit); part > placesUsed {
			return fmt.Sprintf("has %d before it, %s of its places", c.Pending, percent(part))
		}
		return ""
	})
	return consumerFinding(false, wrong, of, fmt.Sprintf("%d consumers", of), "repair what the handlers of the parked events wait for")
}

func (f *facts) paused() finding {
	wrong, of := f.eachConsumer(func(c inspect.Consumer) string {
		if !c.Pause.Paused {
			return ""
		}
		return "is paused " + c.Pause.String()
	})
	return consumerFinding(false, wrong, of, fmt.Sprintf("%d consumers", of), "headgate resume ends it, when what it was paused for is done")
}

// running looks for what waits while nothing asks for it. A program that handles all that it can has no open request either: a worker is
// among those that run, and another program has deliveries that are not settled.
func (f *facts) running() finding {
	alive := map[string]bool{}
	for _, i := range f.instances {
		alive[i.Worker] = true
	}
	failure := false
	wrong, of := f.eachConsumer(func(c inspect.Consumer) string {
		if _, idle := f.idle[c.Stream+" "+c.Name]; !idle || alive[c.Name] {
			return ""
		}
		failure = failure || c.AckPending == 0
		return fmt.Sprintf("has %d waiting, and no process takes them", c.Pending+uint64(max(0, c.AckPending)))
	})
	known := fmt.Sprintf("%d processes of workers", len(f.instances))
	if f.missing[instances] != nil {
		known = "the processes of workers cannot be read"
	}
	return consumerFinding(failure, wrong, of, fmt.Sprintf("%d consumers, %s", of, known), "start the worker: headgate workers lists those that run")
}

// eachInstance examines the running processes of workers.
func (f *facts) eachInstance(bad func(inspect.Instance) string, cure string) finding {
	var wrong []string
	for _, i := range f.instances {
		if problem := bad(i); problem != "" {
			wrong = append(wrong, i.Worker+" "+problem)
		}
	}
	return graded(false, len(wrong) > 0, cmp.Or(listed(wrong), fmt.Sprintf("%d processes", len(f.instances))), cure)
}

func (f *facts) workerVersions() finding {
	versions := map[string][]string{}
	for _, i := range f.instances {
		if !slices.Contains(versions[i.Worker], i.Version) {
			versions[i.Worker] = append(versions[i.Worker], i.Version)
		}
	}
	return f.eachInstance(func(i inspect.Instance) string {
		if len(versions[i.Worker]) < 2 {
			return ""
		}
		return "has versions " + listed(versions[i.Worker])
	}, "finish the upgrade of the worker")
}

func (f *facts) breakers() finding {
	return f.eachInstance(func(i inspect.Instance) string {
		if open := f.now.Sub(i.Paused); !i.Paused.IsZero() && open > breakerOpen {
			return "has paused for " + span(open)
		}
		return ""
	}, "repair what the worker's handlers call: its log names the error")
}

// claims leaves out the errors, whose text is foreign.
func (f *facts) claims() finding {
	return f.eachInstance(func(i inspect.Instance) string {
		if i.CannotClaim != "" {
			return "cannot read or take claims in a process"
		}
		return ""
	}, "headgate workers prints the error of each process")
}

func (f *facts) oldestUnsettled() finding {
	var worst time.Duration
	of, known := "", 0
	for _, c := range f.snapshot.Consumers {
		if c.OldestUnsettled == nil {
			continue
		}
		if known++; *c.OldestUnsettled >= worst {
			worst = *c.OldestUnsettled
			of = fmt.Sprintf("%s has %d waiting, the oldest unsettled for %s", c.Name, c.Pending, span(worst))
		}
	}
	if known == 0 {
		return skip("no consumer of the events answers")
	}
	kept := time.Duration(0)
	if s := f.events(); s != nil {
		kept = s.MaxAge
	}
	expires := kept > 0 && float64(worst) > unsettledPart*float64(kept)
	return graded(worst > unsettledFail || expires, worst > unsettledWarn, of,
		"start, scale or repair the worker; headgate provision --max-age keeps events longer before they are lost for it")
}

func (f *facts) deadLetters() finding {
	if f.stream(f.Source.DeadStream()) == nil {
		return skip("stream " + f.Source.DeadStream() + " does not answer")
	}
	var wrong []string
	most := 0
	for worker, n := range f.letters {
		if n > 0 {
			wrong = append(wrong, fmt.Sprintf("%s %d", worker, n))
		}
		most = max(most, n)
	}
	total := uint64(0)
	for _, n := range f.snapshot.DeadLetters {
		total += n
	}
	measured := fmt.Sprintf("%d stored", total)
	if len(wrong) > 0 {
		measured += "; in the last hour: " + listed(wrong)
	}
	return graded(most > deadFail, most > 0, measured, "headgate dead list --since 1h says why; headgate dead replay gives them again when the cause is repaired")
}

func (f *facts) parkedLong() finding {
	s := f.stream(f.Source.ParkedStream())
	if s == nil {
		return skip("stream " + f.Source.ParkedStream() + " does not answer")
	}
	if s.Messages == 0 {
		return ok("none is parked")
	}
	age := f.now.Sub(s.First)
	return graded(false, age > parkedLong, fmt.Sprintf("%d are parked, the oldest for %s", s.Messages, span(age)), "repair what its handler waits for: the log of the worker names the error")
}

func (f *facts) stuckHandlers() finding {
	var stuck []string
	all := f.metrics("headgate_worker_stuck_handlers")
	for _, m := range all {
		if m.Value > 0 {
			stuck = append(stuck, fmt.Sprintf("%s %.0f", m.Labels["worker"], m.Value))
		}
	}
	if len(all) == 0 {
		return skip("no --metrics-url is that of a worker")
	}
	return graded(false, len(stuck) > 0, cmp.Or(listed(stuck), "none"), "a handler must return when its context ends: restart the process, and mend the handler")
}
