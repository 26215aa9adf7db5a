//go:build mutants

package mutants

// relayMutants change packages relay and watchdog.
var relayMutants = []mutant{
	{
		4, "the signature over the bytes that are sent", "workers/relay sender.request",
		swap("k.Sign(m.id, n, m.body)", "k.Sign(m.id, n, m.body[:len(m.body)-1])"),
		"workers/relay TestRun_SignsWhatTheLibraryVerifies",
	},
	{
		6, "the outage of an endpoint as no fault of the event", "workers/relay sender.judge",
		never("s >= 500"),
		"workers/relay TestRun_OutcomeOfEachStatus",
	},
	{
		6, "the refusal of an event as final", "workers/relay sender.judge",
		never("s >= 400"),
		"workers/relay TestRun_OutcomeOfEachStatus",
	},
	{
		6, "the pause that an endpoint asks for", "workers/relay sender.judge",
		drop("s.gate.pause(d)"),
		"workers/relay TestRun_HonoursRetryAfter",
	},
	{
		8, "the check of the address of each connection", "workers/relay newSender",
		swap("r.control", "nil"),
		"workers/relay TestSender_RefusesANameThatResolvesInside",
	},
	{
		8, "the check that an address is public", "workers/relay Route.checkAddress",
		never("!public(a)"),
		"workers/relay TestCheckAddress_RefusesWhatIsNotPublic",
	},

	// What has not come.
	{
		6, "the batch that comes an hour early or late", "pkg/watchdog missed.least",
		swap("min(m.Exact, m.Early, m.Late)", "m.Exact"),
		"pkg/watchdog TestLearned_BatchMayMoveByAnHour",
	},
	{
		6, "the longest silence that ended by itself", "pkg/watchdog learned.limit",
		swap("longer*l.Vain", "0"),
		"pkg/watchdog TestLearned_RarelyRaisesWhatComesAtRandom",
	},
	{
		6, "the two weeks before a silence is raised", "pkg/watchdog learned.raises",
		swap("2*looksWeek", "0"),
		"pkg/watchdog TestLearned_RaisesNothingInTheFirstTwoWeeks",
	},
	{
		6, "the bound on what a silence that was raised adds to the next", "pkg/watchdog learned.look",
		swap("min(l.Missed.least(), l.limit())", "l.Missed.least()"),
		"pkg/watchdog TestLearned_RepeatedSilenceIsRaisedAgain",
	},
	{
		6, "the end of a type that comes no more", "pkg/watchdog learned.look",
		swap("n.Sub(l.Last) < endedAfter", "true"),
		"pkg/watchdog TestLearned_TypeEnds",
	},
	{
		6, "the connections that are linked no more", "pkg/watchdog Watchdog.staleReads",
		never("!l"),
		"pkg/watchdog TestWatchdog_ListsStaleReadsOfLinkedConnections",
	},
	{
		6, "the records of a kind that could not be read", "pkg/watchdog Watchdog.Look",
		nth(1, always("e == nil")),
		"pkg/watchdog TestWatchdog_KeepsRecordsWhileABucketDoesNotAnswer",
	},
}
