package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

var streamChecks = []check{
	{"HG-STR-001", "streams and buckets", "all that headgate provision makes exist", "doctor-provisioning", provision, (*facts).streamsExist},
	{"HG-STR-002", "settings of streams and buckets", "as headgate provision makes them", "doctor-provisioning", provision, (*facts).streamsAgree},
	{"HG-STR-003", "leaders of streams", "each stream answers and has one", "headgatenoleader", streams, (*facts).streamLeaders},
	{"HG-STR-004", "replicas of streams", "all are online, current and at most 1000 operations behind", "headgatereplicabehind", streams, (*facts).replicasCurrent},
	{"HG-STR-005", "number of replicas", "each stream has as many as the others", "headgatefewreplicas", streams, (*facts).fewReplicas},
	{"HG-STR-006", "room in streams and buckets", "under 70 % of max bytes; fails over 85 %", "headgatestreamfilling", streams, (*facts).streamRoom},
	{"HG-STR-007", "room for parked events", "under 70 % of max bytes; fails over 85 %", "headgatestreamfilling", streams, (*facts).parkedRoom},
	{"HG-STR-008", "window in which an id is known", "as long as an event is stored", "doctor-provisioning", streams, (*facts).dedupWindow},
	{"HG-STR-009", "retention of events", "14 days at least, for which Codat replays", "doctor-provisioning", streams, (*facts).retention},
	{"HG-STR-010", "readable messages", "the leaders can read all", "a-disk-is-damaged", streams, (*facts).lostMessages},
}

// changesOf lists the objects of a kind for which provision would do one of the actions, and counts those that exist.
func (f *facts) changesOf(consumers bool, actions ...stream.Action) (objects []string, exist int) {
	for _, c := range f.changes {
		if strings.HasPrefix(c.Object, "consumer ") != consumers {
			continue
		}
		if c.Action != stream.Create {
			exist++
		}
		if slices.Contains(actions, c.Action) {
			objects = append(objects, c.Object+fieldNames(c))
		}
	}
	return objects, exist
}

// agree compares the settings of the objects of a kind that exist with those that provision gives them.
func (f *facts) agree(consumers bool) finding {
	differ, of := f.changesOf(consumers, stream.Update, stream.Refuse)
	switch {
	case of == 0:
		return skip("none exists")
	case len(differ) > 0:
		return warn("differ: "+listed(differ), provisionCure)
	}
	return ok(fmt.Sprintf("%d compared", of))
}

// fieldNames names the settings that differ of an object that exists.
func fieldNames(c stream.Change) string {
	if c.Action == stream.Create || len(c.Fields) == 0 {
		return ""
	}
	names := make([]string, len(c.Fields))
	for i, f := range c.Fields {
		names[i] = f.Name
	}
	return " (" + strings.Join(names, ", ") + ")"
}

const provisionCure = "run headgate provision; headgate provision --dry-run prints what it would change"

func (f *facts) streamsExist() finding {
	missing, of := f.changesOf(false, stream.Create)
	if len(missing) > 0 {
		return fail("missing: "+listed(missing), provisionCure)
	}
	return ok(fmt.Sprintf("%d exist", of))
}

func (f *facts) streamsAgree() finding { return f.agree(false) }

// eachStream examines the streams that answer. bad returns what is wrong with one, and "" when nothing is.
func (f *facts) eachStream(bad func(inspect.Stream) string) (wrong []string, of int) {
	for _, s := range f.snapshot.Streams {
		if !s.Answered {
			continue
		}
		of++
		if problem := bad(s); problem != "" {
			wrong = append(wrong, s.Name+" "+problem)
		}
	}
	return wrong, of
}

const noStream = "no stream of the source answers"

// streamFinding is ok when nothing is wrong, and skipped when no stream answers.
func streamFinding(failure bool, wrong []string, of int, good, cure string) finding {
	if of == 0 {
		return skip(noStream)
	}
	if len(wrong) > 0 {
		return graded(failure, true, listed(wrong), cure)
	}
	return ok(good)
}

func (f *facts) streamLeaders() finding {
	var without []string
	for _, s := range f.snapshot.Streams {
		if !s.HasLeader {
			without = append(without, s.Name)
		}
	}
	return streamFinding(true, without, len(f.snapshot.Streams), fmt.Sprintf("%d have one", len(f.snapshot.Streams)),
		"more than half of the servers that have a copy must run and reach each other")
}

func (f *facts) replicasCurrent() finding {
	wrong, of := f.eachStream(func(s inspect.Stream) string {
		for server, lag := range s.ReplicaLag {
			if lag > replicaLag {
				return fmt.Sprintf("on %s is %d operations behind", server, lag)
			}
		}
		if s.ReplicasCurrent < s.Replicas {
			return fmt.Sprintf("has %d of %d current", s.ReplicasCurrent, s.Replicas)
		}
		return ""
	})
	return streamFinding(false, wrong, of, fmt.Sprintf("all of %d streams", of), "start the server that is missing, and wait until it has caught up")
}

func (f *facts) fewReplicas() finding {
	most := 0
	for _, s := range f.snapshot.Streams {
		most = max(most, s.Replicas)
	}
	wrong, of := f.eachStream(func(s inspect.Stream) string {
		if s.Replicas < most {
			return fmt.Sprintf("has %d, others %d", s.Replicas, most)
		}
		return ""
	})
	return streamFinding(false, wrong, of, fmt.Sprintf("%d each", most), "run headgate provision, which gives every stream as many as the events have")
}

// room grades the fullest of the streams that are chosen.
func (f *facts) room(chosen func(name string) bool, cure string) finding {
	worst, of := -1.0, ""
	for _, s := range f.snapshot.Streams {
		if !chosen(s.Name) || !s.Answered || s.MaxBytes <= 0 {
			continue
		}
		if part := float64(s.Bytes) / float64(s.MaxBytes); part > worst {
			worst, of = part, fmt.Sprintf("%s holds %s of %s", s.Name, percent(part), size(s.MaxBytes))
		}
	}
	if worst < 0 {
		return skip("no such stream answers, or it has no limit")
	}
	return graded(worst > fillFail, worst > fillWarn, of, cure)
}

func (f *facts) streamRoom() finding {
	// The operators' stream drops its oldest messages when it is full.
	return f.room(func(name string) bool { return name != f.Source.ParkedStream() && name != f.Source.OperatorStream() },
		"raise the limit: headgate provision --max-bytes, --dead-max-bytes, --claims-max-bytes or --state-max-bytes")
}

func (f *facts) parkedRoom() finding {
	return f.room(func(name string) bool { return name == f.Source.ParkedStream() },
		"raise the limit with headgate provision --parked-max-bytes, and repair what the parked events wait for")
}

// events is the state of the stream of the events; nil when it is unknown.
func (f *facts) events() *inspect.Stream { return f.stream(f.Source.Stream()) }

func (f *facts) dedupWindow() finding {
	s := f.events()
	if s == nil {
		return skip(noStream)
	}
	return graded(false, s.Duplicates < s.MaxAge, span(s.Duplicates)+"; events are stored for "+span(s.MaxAge),
		"run headgate provision; when the server refuses it, raise limits.duplicate_window there: an event that Codat sends again after the window is stored twice")
}

func (f *facts) retention() finding {
	s := f.events()
	if s == nil {
		return skip(noStream)
	}
	if s.MaxAge == 0 {
		return ok("without end")
	}
	return graded(false, s.MaxAge < minMaxAge, span(s.MaxAge), "headgate provision --max-age 384h: what a worker has not settled until then is lost for it")
}

func (f *facts) lostMessages() finding {
	wrong, of := f.eachStream(func(s inspect.Stream) string {
		if s.Lost > 0 {
			return fmt.Sprintf("has %d that cannot be read", s.Lost)
		}
		return ""
	})
	return streamFinding(true, wrong, of, fmt.Sprintf("all of %d streams", of), "give the server of the leader an empty disk, when other copies are whole: headgate scrub compares them")
}
