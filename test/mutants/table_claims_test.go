//go:build mutants

package mutants

// claimsMutants change packages claims, deadletter and operator.
var claimsMutants = []mutant{
	// 5. Once per webhook-id.
	{
		5, "the check of the claim: the handler runs although the work is done", "pkg/claims TakeRequest.Next",
		hollow("Done"),
		"workers TestDeliver_OnlyAcksWhatIsDone",
	},
	{
		5, "compare-and-set of claims", "pkg/claims KV.write",
		swap("jetstream.ExpectedLastSubjSeqHeader", `"revision"`),
		"pkg/claims TestKVClaims/one_of_many_takers_wins$",
	},
	{
		5, "the lease of a claim that is running", "pkg/claims TakeRequest.Next",
		never("n.Before(f)"),
		"pkg/claims TestKVClaims/a_running_claim_is_busy_until_its_lease_and_grace",
	},
	{
		5, "grace for clocks that differ", "pkg/claims TakeRequest.Next",
		swap("ClockSkew", "0"),
		"pkg/claims TestKVClaims/a_running_claim_is_busy_until_its_lease_and_grace",
	},
	{
		5, "the fence: a lost lease settles", "pkg/claims KV.Save",
		drop("r.Owner != c.Record.Owner"),
		"pkg/claims TestKVClaims/a_claim_that_was_taken_over_cannot_be_saved",
	},
	{
		5, "a claim that was written into a bucket that is gone", "pkg/claims KV.Save",
		swap("c.space.rebase(d)", "d"),
		"pkg/claims TestKV_SavesIntoABucketThatIsMadeAgain",
	},
	{
		5, "an id of its own for a redrive", "pkg/deadletter Redriver.Redrive",
		swap(`"redrive:" + w + ":" + r + ":" + i`, "i"),
		"workers TestRedrive_RunsOnceMore",
	},
	{
		5, "a claim of its own for a redrive", "pkg/claims Key.String",
		swap(`i + "\x00" + r`, `i + "\x00"`),
		"pkg/claims TestKVClaims/redrives_are_work_of_their_own",
	},

	{
		5, "room in the bucket for the results of what runs", "pkg/claims room",
		swap("l / reservedPart", "l - l"),
		"pkg/claims TestKV_KeepsRoomForResults",
	},

	// 6. One end for every event and worker.
	{
		6, "the time of the server beside that of a record", "pkg/claims clock.local",
		drop("*t = t.Add(s)"),
		"pkg/claims TestKV_ClockThatWasAheadHoldsNoEvent",
	},
	{
		6, "the owner of a take whose answer was lost", "pkg/claims KV.Take",
		never("r.Owner == t.Owner"),
		"pkg/claims TestKVClaims/a_take_without_an_answer_goes_on_under_its_owner",
	},
	{
		6, "counting attempts", "pkg/claims TakeRequest.Next",
		drop("r.Attempts++"),
		"pkg/claims TestKVClaims/an_expired_lease_is_taken_over_and_counts_an_attempt",
	},
	{
		6, "one id for the dead letters of an event", "pkg/deadletter bury",
		swap("jetstream.MsgIDHeader", `"id"`),
		"workers TestPromise6_EveryEventIsSettledOnceAfterACrash/dies_after_publish_dead",
	},
	{
		6, "leaving a parked event to its copy", "pkg/claims TakeRequest.Next",
		drop("!t.Parked"),
		"pkg/claims TestKVClaims/parked_is_for_the_parked_copy",
	},

	// 8. Every refusal says why in the log and metrics only.
	{
		8, "refusing a redrive that nothing would deliver", "pkg/operator workers.known",
		never("!k"),
		"cmd/headgate TestDeadReplay_RefusesWorkerWithoutConsumer",
	},
	{
		8, "naming what a redrive could not give", "pkg/operator leftOut.add",
		drop("l.named = append(l.named, v)"),
		"pkg/operator TestOperator_RedriveNamesExpiredEvents",
	},
	{
		8, "the cause in a dead letter", "pkg/deadletter bury",
		drop("HeaderLastError: e"),
		"workers TestRun_FailingEventBecomesADeadLetter",
	},
}
