//go:build mutants

package mutants

// auditMutants change packages audit and inspect.
var auditMutants = []mutant{
	{
		6, "the sequences that no copy has: a message with a wrong checksum is taken for deleted", "pkg/audit scrub.compare",
		never("!c.any[n] && !s.deleted[n]"),
		"pkg/audit TestAudit_FindsFlippedBitOnOneServer",
	},
	{
		6, "the list of what was deleted", "pkg/audit scrub.readState",
		never("s.listed"),
		"pkg/audit TestAudit_DeletedIsNotUnreadable",
	},
	{
		6, "what is known of a worker whose consumer was made again", "pkg/audit assessment.knownSince",
		never("!a.claims.first.IsZero()"),
		"pkg/audit TestAudit_FindsSkippedEventsBehindTheLastHandledOne",
	},
	{
		6, "the earlier messages of a redriven event among the pending acks", "pkg/audit assessment.countEarlier",
		drop("a.outstanding[k] = c.revision"),
		"pkg/audit TestAudit_CountsEveryMessageOfARedrivenEvent",
	},
	{
		6, "the workers that have no consumer", "pkg/audit Audit.workers",
		never("!slices.Contains(c[n], w)"),
		"pkg/audit TestAudit_FindsWorkerWithoutConsumer",
	},
	{
		6, "the stray redrive of an event", "pkg/audit Audit.add",
		drop("l.stray[e.sequence] = o.Redrive"),
		"pkg/audit TestAudit_AcceptsEventWithStrayRedriveHeader",
	},
	{
		6, "the series of a worker whose consumer was deleted", "pkg/inspect Collector.jetStream",
		drop("n.missing(i, w, d)"),
		"pkg/inspect TestCollector_ReportsDeletedConsumer",
	},
}
