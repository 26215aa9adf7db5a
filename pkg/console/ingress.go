package console

import (
	"context"
	"maps"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// A Process is what one process of Headgate exports as metrics.
type Process struct {
	Address  string // host and port
	Err      error  // why it did not answer
	Families map[string]*dto.MetricFamily
}

// reading are the counters of all ingresses at one time.
type reading struct {
	at                 time.Time
	outcomes, refusals map[string]float64
	buckets            map[float64]float64 // of the time to accept, cumulative, by upper bound in seconds
	byInstance         map[string]map[string]float64
}

// ingressCounts are what the ingresses count, all of them together.
type ingressCounts struct {
	// asked says that addresses of metrics are known; silent are those that did not answer.
	asked              bool
	instances          int
	silent             []string
	outcomes, refusals map[string]float64 // since each ingress started
	// lastHour are the refusals of the last hour, and accepted15 the requests that were stored in the last 15 minutes, as far as
	// the console runs that long.
	lastHour   map[string]float64
	accepted15 float64
	// since is when the oldest reading was taken that lastHour and day are counted from.
	since time.Time
	// day are the refusals of the last 24 hours by reason and instance.
	day []refusalCount
	// rates and refusedRates are for each of the last seconds what came and what was refused.
	rates, refusedRates []float64
	// slowest is the time within which 99 of 100 requests of the last minutes were accepted; 0 when none was.
	slowest     time.Duration
	notReady    []string
	certificate time.Time // when the first certificate ends; zero without TLS
}

// A refusalCount counts the refusals of an instance with one reason.
type refusalCount struct {
	Instance, Reason string
	Count            float64
}

// keepReadings is for how long readings are kept, one a minute beyond the newest ones.
const keepReadings = 24 * time.Hour

// ingressHistory keeps readings.
type ingressHistory struct{ past []reading }

// look reads the metrics of all processes.
func (h *ingressHistory) look(ctx context.Context, c *Console) ingressCounts {
	if c.Processes == nil {
		return ingressCounts{}
	}
	now := reading{at: c.Now(), outcomes: map[string]float64{}, refusals: map[string]float64{}, buckets: map[float64]float64{}, byInstance: map[string]map[string]float64{}}
	found := ingressCounts{asked: true}
	for _, p := range c.Processes(ctx) {
		if p.Err != nil {
			found.silent = append(found.silent, p.Address)
			continue
		}
		found.add(&now, p, string(c.Source))
	}
	h.keep(now)
	found.outcomes, found.refusals = now.outcomes, now.refusals
	found.count(h.past, now)
	return found
}

// add adds what one process says.
func (f *ingressCounts) add(to *reading, p Process, source string) {
	own := map[string]float64{}
	for _, m := range p.Families["headgate_ingress_refusals_total"].GetMetric() {
		if s := label(m, "source"); s == source || s == "" {
			own[label(m, "reason")] += m.GetCounter().GetValue()
			to.refusals[label(m, "reason")] += m.GetCounter().GetValue()
		}
	}
	for _, m := range p.Families["headgate_ready"].GetMetric() {
		if m.GetGauge().GetValue() == 0 {
			f.notReady = append(f.notReady, label(m, "process")+" at "+p.Address)
		}
	}
	requests := p.Families["headgate_ingress_requests_total"].GetMetric()
	if len(requests) == 0 {
		return // it is a worker's
	}
	f.instances++
	to.byInstance[p.Address] = own
	for _, m := range requests {
		if label(m, "source") == source {
			to.outcomes[label(m, "outcome")] += m.GetCounter().GetValue()
		}
	}
	for _, m := range p.Families["headgate_ingress_accept_seconds"].GetMetric() {
		if label(m, "source") != source {
			continue
		}
		for _, b := range m.GetHistogram().GetBucket() {
			to.buckets[b.GetUpperBound()] += float64(b.GetCumulativeCount())
		}
	}
	for _, m := range p.Families["headgate_ingress_certificate_end_timestamp_seconds"].GetMetric() {
		end := time.Unix(int64(m.GetGauge().GetValue()), 0)
		if f.certificate.IsZero() || end.Before(f.certificate) {
			f.certificate = end
		}
	}
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// keep keeps a reading, and of those that are older than five minutes one a minute.
func (h *ingressHistory) keep(r reading) {
	h.past = append(h.past, r)
	kept := h.past[:0]
	for i, p := range h.past {
		age := r.at.Sub(p.at)
		if age > keepReadings {
			continue
		}
		if age > 5*time.Minute && i > 0 && len(kept) > 0 && p.at.Sub(kept[len(kept)-1].at) < time.Minute-surveyEvery {
			continue
		}
		kept = append(kept, p)
	}
	h.past = kept
}

// before returns the oldest reading that is not older than a time ago.
func before(past []reading, now time.Time, ago time.Duration) reading {
	for _, r := range past {
		if now.Sub(r.at) <= ago {
			return r
		}
	}
	return past[len(past)-1]
}

// count sets what follows from the readings.
func (f *ingressCounts) count(past []reading, now reading) {
	f.since = past[0].at
	hour, quarter, minutes := before(past, now.at, time.Hour), before(past, now.at, 15*time.Minute), before(past, now.at, 5*time.Minute)
	f.lastHour = more(hour.refusals, now.refusals)
	stored := more(quarter.outcomes, now.outcomes)
	f.accepted15 = stored["accepted"] + stored["duplicate"] + stored["quarantined"]
	f.slowest = quantile(minutes.buckets, now.buckets)
	day := past[0]
	for _, instance := range slices.Sorted(maps.Keys(now.byInstance)) {
		reasons := more(day.byInstance[instance], now.byInstance[instance])
		for _, reason := range slices.Sorted(maps.Keys(reasons)) {
			f.day = append(f.day, refusalCount{instance, reason, reasons[reason]})
		}
	}
	for i := 1; i < len(past); i++ {
		if now.at.Sub(past[i].at) > history*time.Second {
			continue
		}
		seconds := max(past[i].at.Sub(past[i-1].at).Seconds(), 0.001)
		came := more(past[i-1].outcomes, past[i].outcomes)
		sum := 0.0
		for _, n := range came {
			sum += n
		}
		f.rates = append(f.rates, sum/seconds)
		f.refusedRates = append(f.refusedRates, came["refused"]/seconds)
	}
}

// more is by how much counters have grown. One that is smaller than before was started again.
func more(before, after map[string]float64) map[string]float64 {
	grown := map[string]float64{}
	for name, n := range after {
		if n < before[name] {
			grown[name] = n
		} else if n > before[name] {
			grown[name] = n - before[name]
		}
	}
	return grown
}

// quantile is the upper bound of the bucket in which 99 of 100 of the durations between two readings end; 0 without any.
func quantile(before, after map[float64]float64) time.Duration {
	bounds := slices.Sorted(maps.Keys(after))
	if len(bounds) == 0 {
		return 0
	}
	total := after[bounds[len(bounds)-1]] - before[bounds[len(bounds)-1]]
	if total <= 0 {
		return 0
	}
	lower, under := 0.0, 0.0
	for _, bound := range bounds {
		n := after[bound] - before[bound]
		if n >= 0.99*total && n > under {
			// Between the bounds of a bucket the durations count as spread evenly.
			return time.Duration((lower + (bound-lower)*(0.99*total-under)/(n-under)) * float64(time.Second))
		}
		lower, under = bound, n
	}
	return time.Duration(lower * float64(time.Second))
}
