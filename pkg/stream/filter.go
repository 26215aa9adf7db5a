package stream

import (
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
)

// covers reports whether filter matches every subject that other, a filter or a subject, matches.
func covers(filter, other string) bool { return codat.Pattern(filter).Covers(codat.Pattern(other)) }

// overlap reports whether some subject is matched by both filters.
func overlap(a, b string) bool { return codat.Pattern(a).Overlaps(codat.Pattern(b)) }

// uncovered returns those of others that none of filters covers by itself.
func uncovered(filters, others []string) (missing []string) {
	for _, o := range others {
		if !slices.ContainsFunc(filters, func(f string) bool { return covers(f, o) }) {
			missing = append(missing, o)
		}
	}
	return missing
}

// widest sorts filters and drops those that another one covers: a server refuses filters that overlap.
func widest(filters []string) []string {
	filters = slices.Compact(slices.Sorted(slices.Values(filters)))
	var kept []string
	for _, f := range filters {
		if !slices.ContainsFunc(filters, func(g string) bool { return g != f && covers(g, f) }) {
			kept = append(kept, f)
		}
	}
	return kept
}

// filtersOf are the filters of a consumer, however it names them; one without any takes everything.
func filtersOf(c *jetstream.ConsumerConfig) []string {
	switch {
	case len(c.FilterSubjects) > 0:
		return c.FilterSubjects
	case c.FilterSubject != "":
		return []string{c.FilterSubject}
	}
	return []string{">"}
}
