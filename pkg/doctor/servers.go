package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/inspect"
)

var serverChecks = []check{
	{"HG-SRV-001", "NATS servers", "each answers at its monitoring address", "headgateserverdown", servers, (*facts).serversAnswer},
	{"HG-SRV-002", "health of the NATS servers", "each says that it is healthy", "headgateserverunhealthy", servers, (*facts).serversHealthy},
	{"HG-SRV-003", "fsync of the NATS servers", "sync_interval is always", "headgatefsyncoff", servers, (*facts).fsync},
	{"HG-SRV-004", "leader of the cluster's JetStream", "each server knows one", "headgatenoleader", servers, (*facts).metaLeader},
	{"HG-SRV-005", "disk of the NATS servers", "under 70 % of max_file_store; fails over 85 %", "all-disks-are-full", servers, (*facts).serverDisks},
	{"HG-SRV-006", "memory of the NATS servers", "under 70 % of --server-memory; fails over 85 %", "capacity", servers, (*facts).serverMemory},
	{"HG-SRV-007", "versions of the NATS servers", "all have the same", "upgrade", servers, (*facts).serverVersions},
	{"HG-SRV-008", "messages in the copies of streams", "the same on each server, in six readings within 3 s", "headgatecopiesdiffer", servers, (*facts).copiesMessages},
	{"HG-SRV-009", "bytes in the copies of streams", "the same on each server, in six readings within 3 s", "headgatecopiesdiffer", servers, (*facts).copiesBytes},
}

// name is how a server is called: by its own name, or by its address while it does not answer.
func name(s inspect.Server) string { return cmp.Or(s.Name, s.Monitor) }

// every examines the servers that answer. bad returns what is wrong with one, "" when nothing is, and false for one that does not say.
func (f *facts) every(good, cure string, bad func(inspect.Server) (string, bool)) finding {
	var wrong []string
	n := 0
	for _, s := range f.snapshot.Servers {
		if !s.Answered {
			continue
		}
		problem, known := bad(s)
		if known {
			n++
		}
		if problem != "" {
			wrong = append(wrong, strings.TrimSpace(name(s)+" "+problem))
		}
	}
	switch {
	case len(wrong) > 0:
		return fail(listed(wrong), cure)
	case n == 0:
		return skip("no server says it at its monitoring address")
	}
	return ok(fmt.Sprintf("%d servers%s", n, good))
}

func (f *facts) serversAnswer() finding {
	var down []string
	for _, s := range f.snapshot.Servers {
		if !s.Answered {
			down = append(down, s.Monitor)
		}
	}
	return graded(false, len(down) > 0, fmt.Sprintf("%d of %d answer", len(f.snapshot.Servers)-len(down), len(f.snapshot.Servers)),
		"no answer from "+listed(down)+": start the server, or correct --monitor-url")
}

func (f *facts) serversHealthy() finding {
	var says []string
	found := f.every(" are healthy", "restart the server when its disk has room; its log says what is wrong", func(s inspect.Server) (string, bool) {
		if s.Healthy == nil || *s.Healthy {
			return "", s.Healthy != nil
		}
		says = append(says, name(s)+": "+s.Problem)
		return "is not healthy", true
	})
	found.detail = listed(says)
	return found
}

func (f *facts) fsync() finding {
	return f.every(" write to disk before they acknowledge", "set jetstream { sync_interval: always } and restart the server: what it acknowledged can be lost with its machine", func(s inspect.Server) (string, bool) {
		if s.SyncAlways == nil || *s.SyncAlways {
			return "", s.SyncAlways != nil
		}
		return "does not", true
	})
}

func (f *facts) metaLeader() finding {
	return f.every(" know the leader", "more than half of the servers must run and reach each other", func(s inspect.Server) (string, bool) {
		if s.HasMetaLeader == nil || *s.HasMetaLeader {
			return "", s.HasMetaLeader != nil
		}
		return "knows none", true
	})
}

// fullest grades the greatest part of a limit that a server uses.
func (f *facts) fullest(why, cure string, part func(inspect.Server) (used, limit int64)) finding {
	worst, of := -1.0, ""
	for _, s := range f.snapshot.Servers {
		if used, limit := part(s); s.Answered && limit > 0 && float64(used)/float64(limit) > worst {
			worst = float64(used) / float64(limit)
			of = fmt.Sprintf("%s uses %s of %s", name(s), percent(worst), size(limit))
		}
	}
	if worst < 0 {
		return skip(why)
	}
	return graded(worst > fillFail, worst > fillWarn, of, cure)
}

func (f *facts) serverDisks() finding {
	return f.fullest("no server says it at its monitoring address", "give the server a larger disk and raise max_file_store, or keep events for a shorter time", func(s inspect.Server) (int64, int64) {
		if s.Storage == nil || s.MaxStorage == nil {
			return 0, 0
		}
		return *s.Storage, *s.MaxStorage
	})
}

func (f *facts) serverMemory() finding {
	why := "no --server-memory says how much memory a server may use"
	if f.ServerMemory > 0 {
		why = "no server answers at its monitoring address"
	}
	return f.fullest(why, "give the server more memory: it keeps ids and the index of the streams there", func(s inspect.Server) (int64, int64) {
		return s.Memory, f.ServerMemory
	})
}

func (f *facts) serverVersions() finding {
	var versions []string
	for _, s := range f.snapshot.Servers {
		if s.Version != "" {
			versions = append(versions, s.Version)
		}
	}
	if len(versions) == 0 {
		return skip("no server says it at its monitoring address")
	}
	slices.Sort(versions)
	versions = slices.Compact(versions)
	return graded(false, len(versions) > 1, listed(versions), "finish the upgrade of the servers")
}

// A copyRange says in what the copies of a stream differ.
type copyRange struct {
	stream                   string
	messages, bytes, deleted uint64 // the most less the least
}

// copiesOf are the copies of each stream, by the address of the server.
func copiesOf(all []inspect.Server) map[string]map[string]inspect.Copy {
	copies := map[string]map[string]inspect.Copy{}
	for _, s := range all {
		for _, c := range s.Copies {
			if copies[c.Stream] == nil {
				copies[c.Stream] = map[string]inspect.Copy{}
			}
			copies[c.Stream][s.Monitor] = c
		}
	}
	return copies
}

// spread is the difference between the most and the least.
func spread(of map[string]inspect.Copy, value func(inspect.Copy) uint64) uint64 {
	first, least, most := true, uint64(0), uint64(0)
	for _, c := range of {
		v := value(c)
		if first {
			first, least, most = false, v, v
		}
		least, most = min(least, v), max(most, v)
	}
	return most - least
}

// differingCopies are the streams whose copies differ. A server that does not have a stream has no copy that could differ. The servers
// are read one after the other: what was stored or dropped in between is no difference, unless no copy has changed since the reading
// before.
func differingCopies(now, before []inspect.Server) []copyRange {
	earlier := copiesOf(before)
	var differ []copyRange
	for stream, of := range copiesOf(now) {
		still := true
		for server, c := range of {
			still = still && (before == nil || earlier[stream][server].LastSequence == c.LastSequence)
		}
		moved := spread(of, func(c inspect.Copy) uint64 { return c.FirstSequence }) + spread(of, func(c inspect.Copy) uint64 { return c.LastSequence })
		d := copyRange{
			stream,
			spread(of, func(c inspect.Copy) uint64 { return c.Messages }),
			spread(of, func(c inspect.Copy) uint64 { return c.Bytes }),
			spread(of, func(c inspect.Copy) uint64 { return c.Deleted }),
		}
		if moved > 0 && !still {
			d.messages -= min(d.messages, moved)
			d.deleted -= min(d.deleted, moved)
			d.bytes = 0
		}
		if d.messages+d.bytes+d.deleted > 0 {
			differ = append(differ, d)
		}
	}
	return differ
}

// both keeps what differs in two readings.
func both(a, b []copyRange) (kept []copyRange) {
	for _, x := range a {
		for _, y := range b {
			if x.stream == y.stream {
				kept = append(kept, copyRange{x.stream, min(x.messages, y.messages), min(x.bytes, y.bytes), min(x.deleted, y.deleted)})
			}
		}
	}
	return slices.DeleteFunc(kept, func(d copyRange) bool { return d.messages+d.bytes+d.deleted == 0 })
}

const copiesCure = "find the damaged disk with headgate scrub, and give the server an empty one; buckets that are written all the time can differ while they are read: repeat"

// copiesFinding grades the streams in which the copies differ.
func (f *facts) copiesFinding(differs func(copyRange) string) finding {
	var wrong []string
	fatal := false
	for _, d := range f.copies {
		if text := differs(d); text != "" {
			wrong = append(wrong, d.stream+" by "+text)
			// Buckets and parked events are deleted all the time.
			fatal = fatal || !strings.HasPrefix(d.stream, "KV_") && d.stream != f.Source.ParkedStream()
		}
	}
	n := 0
	for _, of := range copiesOf(f.snapshot.Servers) {
		if len(of) > 1 {
			n += len(of)
		}
	}
	if n == 0 {
		return skip("no two of the monitoring addresses have a copy of the same stream")
	}
	return graded(fatal, len(wrong) > 0, cmp.Or(listed(wrong), fmt.Sprintf("%d copies", n)), copiesCure)
}

func (f *facts) copiesMessages() finding {
	return f.copiesFinding(func(d copyRange) string {
		if d.messages+d.deleted == 0 {
			return ""
		}
		return fmt.Sprintf("%d messages", max(d.messages, d.deleted))
	})
}

func (f *facts) copiesBytes() finding {
	return f.copiesFinding(func(d copyRange) string {
		if d.bytes == 0 {
			return ""
		}
		return fmt.Sprintf("%d bytes", d.bytes)
	})
}
