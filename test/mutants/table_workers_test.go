//go:build mutants

package mutants

// workersMutants change package workers.
var workersMutants = []mutant{
	// 4. Bytes stay bytes.
	{
		4, "giving the handler the body as it came", "workers event",
		swap("m.Data()", "[]byte(string(m.Data()[:len(m.Data())-1]))"),
		"workers TestPromise4_WorkersChangeNoByte",
	},

	// 5. Once per webhook-id.
	{
		5, "running only what was claimed", "workers runner.handle",
		hollow("settleUnclaimed"),
		"workers TestPromise5_NothingRunsWithoutAClaim",
	},
	{
		5, "renewing the lease", "workers runner.startLease",
		swap("time.AfterFunc(d, f)", "time.AfterFunc(time.Hour, f)"),
		"workers TestPromise5_LongAttemptRenewsItsClaim",
	},
	{
		5, "renewing the claim with the delivery", "workers lease.renew",
		drop("c.Record.LeaseUntil = t"),
		"workers TestPromise5_LongAttemptRenewsItsClaim",
	},
	{
		5, "the pace of a consumer with another ack wait", "workers starter.bind",
		drop("s.keepAckWait()"),
		"workers TestRun_KeepsTheAckWaitOfItsConsumer",
	},
	{
		5, "cancelling the handler whose lease is lost", "workers lease.renew",
		drop("l.lost(claims.ErrLost)"),
		"workers TestLease_LostLeaseEndsTheContextAndSettlesNothing",
	},

	{
		5, "keeping a second delivery from what a process still handles", "workers runner.claim",
		never("!r.inFlight.enter(d)"),
		"workers TestPromise5_SuccessIsKeptWhileItsClaimCannotBeSaved",
	},

	{
		5, "remembering the end of an event whose claim is lost", "workers inFlight.end",
		drop("h.ended[k] = r"),
		"workers TestPromise5_SettledEventIsNotHandledAgainWithoutItsClaim",
	},

	// 6. One end for every event and worker.
	{
		6, "places for parked copies that are due", "workers runner.waitParked",
		never("m.NumDelivered > 1"),
		"workers TestWaits_DueCopyPassesParkedOnes",
	},
	{
		6, "an outcome for an error whose methods panic", "workers calls.serve",
		swap("plain(protect(k.run))", "protect(k.run)"),
		"workers TestPromise6_WhateverAHandlerDoesIsAnOutcome/nil_pointer_as_error",
	},
	{
		6, "an end for a handler that never returns", "workers runner.await",
		swap("r.worker.pauses.abandon", "time.Hour"),
		"workers TestPromise6_HandlerThatIgnoresItsContextIsAbandoned",
	},
	{
		6, "an end to attempts that crash", "workers runner.exhausted",
		swap("a > b.worker.Attempts", "a > 1000*b.worker.Attempts"),
		"workers TestPromise6_CrashingEventBecomesADeadLetter",
	},
	{
		6, "waiting for the dead letter", "workers runner.bury",
		swap("deadletter.Bury(c, p, s, l)", `func() error {
		_ = deadletter.Bury(c, p, s, l)
		return nil
		}()`),
		"workers TestPromise6_DeadOnlyAfterTheLetterIsStored",
	},
	{
		6, "saying burying before the dead letter", "workers runner.bury",
		never("r.State != claims.Burying"),
		"workers TestPromise6_EveryEventIsSettledOnceAfterACrash/dies_after_publish_dead",
	},
	{
		6, "the state burying: the handler runs again", "workers runner.exhausted",
		never("r.State == claims.Burying"),
		"workers TestPromise6_EveryEventIsSettledOnceAfterACrash/dies_after_burying",
	},
	{
		6, "saving done before the ack", "workers runner.finish",
		move("ack", "claims.Done"),
		"workers TestPromise6_EveryEventIsSettledOnceAfterACrash/dies_after_ack$",
	},
	{
		6, "waiting for the parked copy", "workers runner.wait",
		never("park"),
		"workers TestPromise6_EventWaitsInPlaceWhenParkingFails",
	},
	{
		6, "the claim that says parked", "workers runner.wait",
		nth(2, swap("r.State, f = claims.Parked, parked", "f = parked")),
		"workers TestWait_LongOneIsParkedAndBlocksNoOther",
	},
	{
		6, "returning what this version does not handle", "workers runner.putOff",
		swap("r.nak(m, t)", "r.ack(m)"),
		"workers TestDeliver_ReturnsTypesWithoutAHandler",
	},
	{
		6, "leaving places for events that can run", "workers runner.mayWait",
		swap("r.waits.enter(n, d, t)", "true"),
		"workers TestWaits_OwnWorkPassesWhatWaits",
	},
	{
		6, "making an error of a panic", "workers protect",
		swap("recover()", "error(nil)"),
		"workers TestRun_FailingEventBecomesADeadLetter/when_it_panics",
	},

	// 7. A stop loses nothing.
	{
		7, "refunding the attempt at a stop", "workers runner.refundAttempt",
		drop("r.Attempts--"),
		"workers TestPromise7_StopFinishesHandlersAndCountsNoAttempt",
	},
	{
		7, "retrying to refund the attempt of a lost lease", "workers runner.settle",
		nth(1, swap("r.save(s.refundAttempt(c))", "r.claims.Save(context.Background(), s.refundAttempt(c))")),
		"workers TestPromise7_LostLeaseCountsNoAttempt",
	},
	{
		7, "returning what was fetched and not started", "workers runner.returnDelivery",
		drop("nak"),
		"workers TestPromise7_StopReturnsWaitingDeliveries",
	},
	{
		7, "time to finish for handlers", "workers Run",
		swap("time.AfterFunc(s.Grace, f)", "time.AfterFunc(0, f)"),
		"workers TestPromise7_StopFinishesHandlersAndCountsNoAttempt",
	},
	{
		6, "the share of a worker in the streams that all workers share", "workers share.measureLocked",
		never("h > 0 && h+m > sharePart*(f-m)"),
		"workers TestShare_KeepsRoomForOtherWorkers",
	},
}
