package main

import "math"

// An outcome is a number to reach of the design, and what it was.
type outcome struct {
	What    string  `json:"what"`
	Was     float64 `json:"was"`
	Must    float64 `json:"must"`
	Stretch float64 `json:"stretch,omitempty"`
	Verdict string  `json:"verdict"`
}

// targets are the numbers to reach. A number is at least what it must be, or, when less is better, at most.
var targets = []struct {
	what          string
	less          bool
	must, stretch float64
	was           func(*report) float64
}{
	{"ingress, requests/s / plain", false, 1.35, 1.5, func(r *report) float64 {
		return r.ratio(closedCase(64, false), "ingress", "plain", perSecond)
	}},
	{"ingress, requests/s / bound", false, 0.65, 0.70, func(r *report) float64 {
		return r.ratio(closedCase(64, false), "ingress", "bound", perSecond)
	}},
	{"CPU per accepted event, ingress + NATS, / plain", true, 0.75, 0.65, func(r *report) float64 {
		return r.ratio(closedCase(64, false), "ingress", "plain", cpuBoth)
	}},
	{"p99 at half of its own maximum / bound's at this rate", true, 2, 1.5, func(r *report) float64 {
		return r.ratio(halfCase(false), "ingress", "bound", p99)
	}},
	{"cluster, 256 in flight, fsync on / fsync off", false, 0.7, 0.8, func(r *report) float64 {
		return r.median(clusterCase(256, true), "ingress", perSecond) / r.median(clusterCase(256, false), "ingress", perSecond)
	}},
	{"memory of the ingress at full load, 256 connections, MiB", true, 64, 0, func(r *report) float64 {
		return r.median(closedCase(256, false), "ingress", memory)
	}},
	{"forgeries: real requests that were refused", true, 0, 0, func(r *report) float64 {
		most := 0.0
		for _, size := range forgerySizes {
			most = max(most, r.most(forgeryCase(size), "with forgeries", refused))
		}
		return most
	}},
	{"floods: real requests that were refused", true, 0, 0, func(r *report) float64 { return r.worstFlood(refused) }},
	{"floods: p99 of real requests, ms", true, 100, 0, func(r *report) float64 { return r.worstFlood(p99) }},
	{"floods: memory of the ingress / its limit", true, 1, 0, func(r *report) float64 {
		return r.worstFlood(peakMemory) / r.worstFlood(limitMemory)
	}},
	{"worker, KV claims, events/s", false, 15_000, 30_000, func(r *report) float64 {
		return r.median(settleCase(1, false), "KV claims", eventsPerSecond)
	}},
	{"worker, KV claims / bare loop", false, 0.15, 0, func(r *report) float64 {
		return r.ratio(settleCase(1, false), "KV claims", "bare loop", eventsPerSecond)
	}},
	{"worker-writes, events/s / KV claims", false, 0.6, 0, func(r *report) float64 {
		return r.ratio(writesCase, writesWorker, kvClaims.name, eventsPerSecond)
	}},
	{"accept to handler start, p50 / bare loop", true, 1.3, 1.1, func(r *report) float64 {
		return r.ratio(arriveCase, "KV claims", "bare loop", p50)
	}},
	{"1,000,000 stored events: start of a worker, s", true, 2, 0, func(r *report) float64 {
		return r.median(startCase, "takes the last event only", "start s")
	}},
	{"1,000,000 stored events: find by webhook-id, ms", true, 50, 0, func(r *report) float64 {
		return r.median(findCase(1_000_000), byWebhookID, findMs)
	}},
	{"1,000,000 stored events: find by company, index warm, ms", true, 200, 0, func(r *report) float64 {
		return r.median(findCase(1_000_000), byCompany, findMs)
	}},
	{"1,000,000 stored events: find by push operation, index warm, ms", true, 200, 0, func(r *report) float64 {
		return r.median(findCase(1_000_000), byPush, findMs)
	}},
	{"1,000,000 stored events: find by company, the last day, index cold, ms", true, 1000, 0, func(r *report) float64 {
		return r.median(findCase(1_000_000), byCold, findMs)
	}},
	{"100,000 dead letters: the newest page of dead list, ms", true, 50, 0, func(r *report) float64 {
		return r.median(lettersCase(100_000), listLetters, findMs)
	}},
	{"100,000 dead letters: the oldest page of dead list, ms", true, 50, 0, func(r *report) float64 {
		return r.median(lettersCase(100_000), lastLetters, findMs)
	}},
	{"console, 1,000,000 stored events: the first page from the start of the program, ms", true, 100, 0, func(r *report) float64 {
		return r.median(consoleCase(1_000_000, 100_000), coldStart, pageMs)
	}},
	{"console, 1,000,000 stored events: the first page, kB compressed", true, 30, 0, func(r *report) float64 {
		return r.median(consoleCase(1_000_000, 100_000), coldPage, pageKB)
	}},
	{"console, 100,000 dead letters: the slowest page of them, ms", true, 50, 0, func(r *report) float64 {
		return r.worstDead(consoleCase(1_000_000, 100_000))
	}},
	{"console: CPU of a live viewer, % of a core", true, 0.1, 0, func(r *report) float64 {
		return (r.median(viewersCase, viewersName(consoleViewers), coreShare) - r.median(viewersCase, viewersName(1), coreShare)) / (consoleViewers - 1)
	}},
	{"console: CPU at 500 viewers, % of a core", true, 50, 0, func(r *report) float64 {
		return r.median(viewersCase, viewersName(consoleViewers), coreShare)
	}},
	{"console: lines of its script", true, 120, 0, func(r *report) float64 { return r.median(filesCase, scriptFile, "lines") }},
	{"console: kB of its CSS", true, 12, 0, func(r *report) float64 { return r.median(filesCase, styleFile, "kB") }},
	{"binary of the ingress, MB", true, 25, 0, func(r *report) float64 { return r.median("stripped binary", "ingress", "MB") }},
	{"binary of a worker, MB", true, 25, 0, func(r *report) float64 { return r.median("stripped binary", "worker-connections", "MB") }},
}

// judge says of the targets that were measured whether they are reached.
func (r *report) judge() []outcome {
	var all []outcome
	for _, t := range targets {
		o := outcome{What: t.what, Was: t.was(r), Must: t.must, Stretch: t.stretch, Verdict: "missed"}
		if math.IsNaN(o.Was) {
			continue
		}
		reached := func(number float64) bool { return t.less && o.Was <= number || !t.less && o.Was >= number }
		switch {
		case t.stretch != 0 && reached(t.stretch):
			o.Verdict = "stretch"
		case reached(t.must):
			o.Verdict = "must"
		}
		all = append(all, o)
	}
	return all
}
