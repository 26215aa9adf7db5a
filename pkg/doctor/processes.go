package doctor

import (
	"cmp"
	"fmt"
	"math"
	"time"
)

var processChecks = []check{
	{"HG-PRC-001", "processes of Headgate", "each answers with its metrics", "headgatenotready", processes, (*facts).processesAnswer},
	{"HG-PRC-002", "ready processes", "each says that it is ready", "headgatenotready", processes, (*facts).processesReady},
	{"HG-PRC-003", "files of processes", "each can use its files of keys, values and certificates", "headgatebadfile", processes, (*facts).fileProblems},
	{"HG-PRC-004", "certificate of the public listener", "ends in more than 14 days; fails below 3 days", "headgatecertificateends", processes, (*facts).certificateEnds},
	{"HG-PRC-005", "signatures of Codat's addresses", "a configured key matches each since the ingress started", "headgateunknownkey", processes, (*facts).unknownKeys},
}

// metrics are the values of a metric, of all processes.
func (f *facts) metrics(name string) (all []Metric) {
	for _, p := range f.processes {
		for _, m := range p.Metrics {
			if m.Name == name {
				all = append(all, m)
			}
		}
	}
	return all
}

// eachProcess lists the processes of which a metric has a value that is bad, and how many processes have the metric.
func (f *facts) eachProcess(bad func(Metric) bool, names ...string) (wrong []string, of int) {
	for _, p := range f.processes {
		has := false
		for _, m := range p.Metrics {
			for _, name := range names {
				if m.Name != name {
					continue
				}
				has = true
				if bad(m) {
					wrong = append(wrong, p.Address)
				}
			}
		}
		if has {
			of++
		}
	}
	return wrong, of
}

func (f *facts) processesAnswer() finding {
	var silent []string
	for _, p := range f.processes {
		if p.Err != nil {
			silent = append(silent, p.Address)
		}
	}
	return graded(len(silent) > 0, false, cmp.Or(listed(silent), fmt.Sprintf("%d answer", len(f.processes))), "start the process, or correct --metrics-url: it is /metrics of its --admin-listen")
}

const noMetrics = "no --metrics-url is that of a process that says it"

func (f *facts) processesReady() finding {
	wrong, of := f.eachProcess(func(m Metric) bool { return m.Value == 0 }, "headgate_ready")
	if of == 0 {
		return skip(noMetrics)
	}
	return graded(len(wrong) > 0, false, cmp.Or(listed(wrong), fmt.Sprintf("%d are ready", of)), "/readyz of the process says why")
}

func (f *facts) fileProblems() finding {
	wrong, of := f.eachProcess(func(m Metric) bool { return m.Value > 0 }, "headgate_ingress_file_problems", "headgate_relay_file_problems")
	if of == 0 {
		return skip(noMetrics)
	}
	return graded(false, len(wrong) > 0, cmp.Or(listed(wrong), fmt.Sprintf("%d can", of)), "/readyz of the process and its log say which file, and why")
}

func (f *facts) certificateEnds() finding {
	left := time.Duration(math.MaxInt64)
	for _, m := range f.metrics("headgate_ingress_certificate_end_timestamp_seconds") {
		left = min(left, time.Unix(int64(m.Value), 0).Sub(f.now))
	}
	if left == math.MaxInt64 {
		return skip("no ingress with a --metrics-url has TLS of its own")
	}
	return graded(left < certificateFail, left < certificateWarn, "ends in "+span(left), "renew the certificate: its files are watched")
}

func (f *facts) unknownKeys() finding {
	unmatched, of := 0.0, 0
	for _, m := range f.metrics("headgate_ingress_unmatched_signatures_total") {
		if m.Labels["from"] == "codat" {
			unmatched += m.Value
			of++
		}
	}
	if of == 0 {
		return skip("no --metrics-url is that of an ingress")
	}
	return graded(false, unmatched > 0, fmt.Sprintf("%.0f match none", unmatched), "add the signing secret of each endpoint at Codat to the file of secrets")
}
