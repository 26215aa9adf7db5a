//go:build mutants

package mutants

// mutants are what must not go unnoticed, by promise.
var mutants = []mutant{
	// 1. No 2xx before durability.
	{
		1, "waiting for the disk", "pkg/stream/embedded/embedded.go",
		[]edit{{"SyncAlways:             !o.LazySync,", "SyncAlways:             false,"}},
		"test/faults", "TestPromise1_AnAckMeansThatTheDiskHasIt/always",
	},
	{
		1, "waiting for the store before the answer", "ingress/ingress.go",
		[]edit{{"got.Receipt, err = r.Store.PublishUntil(context.WithoutCancel(ctx), came.Add(r.Budget), msg)", "go func() { _, _ = r.Store.PublishUntil(context.WithoutCancel(ctx), came.Add(r.Budget), msg) }()"}},
		"ingress", "TestPromise1_No2xxBeforeDurability",
	},
	{
		1, "the store's refusal in the answer", "ingress/ingress.go",
		[]edit{{"	if err != nil {\n		return got, fmt.Errorf(\"%w: %w\", ErrNotStored, err)\n	}\n	return got, nil", "	return got, nil"}},
		"ingress", "TestPromise1_No2xxBeforeDurability",
	},
	{
		1, "waiting for the stream's ack", "pkg/stream/publisher.go",
		[]edit{{"r, err = p.answer(ctx, s)", "r = Receipt{Stream: \"CODAT\", Sequence: 7}"}},
		"pkg/stream", "TestPublishWaitsForTheStreamsWord",
	},
	{
		1, "a look at the sequence in an ack", "pkg/stream/publisher.go",
		[]edit{{"if a.Stream == \"\" || a.Sequence == 0 {", "if a.Stream == \"\" {"}},
		"pkg/stream", "TestPromise1WithoutASequenceNothingIsStored",
	},
	{
		1, "doubt when the ack is late", "pkg/stream/publisher.go",
		[]edit{{"return Receipt{}, errLate", "return Receipt{Stream: \"CODAT\", Sequence: 1}, nil"}},
		"pkg/stream", "TestALostAckIsAskedForAgain",
	},
	{
		1, "telling the acks of two messages apart", "pkg/stream/publisher.go",
		[]edit{{"	if s.gen == gen {\n", "	if s.gen >= gen {\n"}},
		"pkg/stream", "TestPublishTakesNoAckOfAnotherMessage",
	},
	{
		1, "plain blocks: what a replica compresses it cannot read again", "pkg/stream/objects.go",
		[]edit{{"c.Compression = jetstream.NoCompression", "c.Compression = jetstream.S2Compression"}},
		"pkg/stream", "TestProvisionedStreams",
	},

	// 2. Nothing proven is lost.
	{
		2, "the quarantine: what is unreadable is refused", "ingress/ingress.go",
		[]edit{{"	msg, err := builder.Message(r.Source, event, body)\n", "	if event.Quarantine != \"\" {\n		return got, ErrBroken\n	}\n	msg, err := builder.Message(r.Source, event, body)\n"}},
		"ingress", "TestPromise2_NothingProvenIsLost",
	},
	{
		2, "reading again after an answer", "ingress/guest.go",
		[]edit{{"		g.whole.Store(false)\n", ""}},
		"ingress", "TestAGuestIsReadOnlyForRequests",
	},
	{
		2, "turns for Codat's own addresses", "ingress/door.go",
		[]edit{{".FromCodat(from == codats)", ""}},
		"ingress", "TestAFloodOfForgeriesTakesNoTurnOfCodats",
	},
	{
		2, "a subject for types that nobody knows", "ingress/ingress.go",
		[]edit{{"if _, err := r.Source.EventSubject(event.Head.Type); err != nil {", "if _, err := r.Source.EventSubject(event.Head.Type); err != nil || !codat.Known(event.Head.Type) {"}},
		"ingress", "TestPromise2_NothingProvenIsLost",
	},
	{
		2, "storing what came from a sender who has gone", "ingress/ingress.go",
		[]edit{{"PublishUntil(context.WithoutCancel(ctx), came.Add(r.Budget), msg)", "PublishUntil(ctx, came.Add(r.Budget), msg)"}},
		"ingress", "TestPromise2_ASenderThatHasGoneHasItsEventStored",
	},
	{
		2, "503 for a full stream", "ingress/answer.go",
		[]edit{{"{stream.ErrFull, answer{http.StatusServiceUnavailable, unavailable,", "{stream.ErrFull, answer{http.StatusRequestEntityTooLarge, refused,"}},
		"ingress", "TestPromise2_AFullStreamIsAnswered503",
	},
	{
		2, "refusing when the stream is full: the oldest is dropped", "pkg/stream/objects.go",
		[]edit{{"c.Discard = jetstream.DiscardNew ", "c.Discard = jetstream.DiscardOld "}},
		"ingress", "TestPromise2_AFullStreamIsAnswered503",
	},
	{
		2, "a second try when the outcome is unknown", "pkg/stream/publisher.go",
		[]edit{{"		if !errors.Is(err, errUnknown) {\n			return r, err\n		}\n", "		if err != errLate {\n			return r, err\n		}\n"}},
		"pkg/stream", "TestPublishTriesAgainWhenTheOutcomeIsUnknown",
	},
	{
		2, "the check that the stream has room", "pkg/stream/check.go",
		[]edit{{"if limit := info.Config.MaxBytes; limit > 0 &&", "if limit := info.Config.MaxBytes; limit < 0 &&"}},
		"pkg/stream", "TestCheck",
	},
	{
		2, "the keys of a file that is broken now", "ingress/files.go",
		[]edit{{"				found = f.good[name][member]\n", "				found = nil\n"}},
		"ingress", "TestABrokenFileKeepsItsKeys",
	},
	{
		2, "room that nobody without a key can take", "ingress/room.go",
		[]edit{{"most := r.most / 2\n", "most := r.most\n"}},
		"ingress", "TestRoomForSmallBodiesAndProvenOnes",
	},
	{
		2, "places for Codat's own addresses", "ingress/door.go",
		[]edit{{"		from = codats\n", "		_ = codats\n"}},
		"ingress", "TestPlacesOfStrangersAndOfCodat",
	},

	// 3. Nothing unproven is stored.
	{
		3, "verification", "pkg/signature/signature.go",
		[]edit{{"		if k.webhook.VerifyIgnoringTimestamp(body, headers) != nil {\n			continue\n		}\n", "		_ = headers\n"}},
		"ingress", "TestPromise3_NothingUnprovenIsStored",
	},
	{
		3, "proving before reading", "ingress/ingress.go",
		[]edit{{"	proof, err := r.Keys.Prove(claim, body)\n	if err != nil {\n		return Receipt{}, err\n	}\n	event := r.read(proof, h, body)\n", "	event := r.read(signature.Proof{ID: h.Get(\"webhook-id\"), Timestamp: h.Get(\"webhook-timestamp\"), Signature: h.Get(\"webhook-signature\")}, h, body)\n	proof, err := r.Keys.Prove(claim, body)\n	if err != nil && event.Quarantine == \"\" {\n		return Receipt{}, err\n	}\n"}},
		"ingress", "TestPromise3_WhatIsUnreadableMustProveToo",
	},
	{
		3, "proving the raw bytes: the body is tidied up before", "ingress/ingress.go",
		[]edit{{"r.Keys.Prove(claim, body)", "r.Keys.Prove(claim, []byte(strings.TrimSpace(string(body))))"}},
		"ingress", "TestPromise4_BytesStayBytes",
	},
	{
		3, "the tolerance", "pkg/signature/signature.go",
		[]edit{{"		if late := v.inTime(f); late != nil {\n			err = fmt.Errorf(\"%w, id %q, key %s\", late, f.id, k.fingerprint)\n			continue\n		}\n", ""}},
		"pkg/signature", "TestToleranceIsReportedOnlyWhenTheSignatureMatched",
	},
	{
		3, "a limit to the future", "pkg/signature/signature.go",
		[]edit{{"case age < -v.tolerance:", "case age < -1000*v.tolerance:"}},
		"pkg/signature", "TestToleranceIsReportedOnlyWhenTheSignatureMatched",
	},
	{
		3, "a least length of keys", "pkg/signature/key.go",
		[]edit{{"minKeyBytes = 24", "minKeyBytes = 1 "}},
		"pkg/signature", "TestParseKey",
	},
	{
		3, "refusing ids whose lines differ", "pkg/signature/signature.go",
		[]edit{{"if line != lines[0] {", "if line == \"\" {"}},
		"ingress", "TestPromise3_NothingUnprovenIsStored",
	},
	{
		3, "keeping the families of headers apart", "pkg/signature/signature.go",
		[]edit{{"f, err := readFamily(h[names.id], h[names.timestamp], h[names.signature])", "f, err := readFamily(append(h[names.id], h[\"Svix-Id\"]...)[:1], h[names.timestamp], h[names.signature])"}},
		"pkg/signature", "TestProve",
	},
	{
		3, "asking for Authorization", "ingress/credentials.go",
		[]edit{{"return found == 1", "return found <= 1"}},
		"ingress", "TestAuthorization",
	},
	{
		3, "the list of addresses", "ingress/door.go",
		[]edit{{"		return ErrAddress\n", "		return nil\n"}},
		"ingress", "TestAllowedAddresses",
	},
	{
		3, "believing named proxies only", "ingress/address.go",
		[]edit{{"	if !proxies.contain(client) {\n		return client\n	}\n	lines :=", "	lines :="}},
		"ingress", "TestClientOf",
	},
	{
		3, "keeping the keys of two sources apart", "ingress/refresh.go",
		[]edit{{"if j != i && (stays || comes && (has || j < i)) {", "if j < 0 && (stays || comes && has) {"}},
		"ingress", "TestAKeyRotatesIntoOneSourceOnly",
	},

	// 4. Bytes stay bytes.
	{
		4, "storing the body as it came: it is written anew", "ingress/ingress.go",
		[]edit{
			{"	\"encoding/hex\"\n", "	\"bytes\"\n	\"encoding/hex\"\n	\"encoding/json\"\n"},
			{"	msg, err := builder.Message(r.Source, event, body)\n", "	var tidy bytes.Buffer\n	if json.Compact(&tidy, body) == nil {\n		body = tidy.Bytes()\n	}\n	msg, err := builder.Message(r.Source, event, body)\n"},
		},
		"ingress", "TestPromise4_BytesStayBytes",
	},
	{
		4, "leaving the line end where it was", "ingress/ingress.go",
		[]edit{{"	msg, err := builder.Message(r.Source, event, body)\n", "	msg, err := builder.Message(r.Source, event, []byte(strings.TrimSpace(string(body))))\n"}},
		"ingress", "TestPromise4_BytesStayBytes",
	},
	{
		4, "waiting until nobody needs the buffer", "ingress/door.go",
		[]edit{{"	r.got, err = d.receiver.accept(", "	d.bodies.put(b)\n	r.got, err = d.receiver.accept("}},
		"ingress", "TestPromise4_BytesStayBytes",
	},
	{
		4, "giving the handler the body as it came", "workers/deliver.go",
		[]edit{{"body:       m.Data(),", "body:       []byte(string(m.Data()[:len(m.Data())-1])),"}},
		"workers", "TestPromise4AWorkerChangesNoByte",
	},

	// 5. Once per webhook-id.
	{
		5, "the id that the signature covers: it is read from any header", "ingress/ingress.go",
		[]edit{{"		ID:              p.ID,\n", "		ID:              h.Get(\"webhook-id\"),\n"}},
		"ingress", "TestPromise3_NoIDIsTakenFromHeadersThatDidNotProve",
	},
	{
		5, "the message id", "pkg/stream/message.go",
		[]edit{{"b.plain(jetstream.MsgIDHeader, id, maxAttribute)", "b.plain(\"not-\"+jetstream.MsgIDHeader, id, maxAttribute)"}},
		"ingress", "TestPromise5_OncePerWebhookID",
	},
	{
		5, "a window as long as the retention", "pkg/stream/objects.go",
		[]edit{{"c.Duplicates = c.MaxAge //", "c.Duplicates = 2 * time.Minute //"}},
		"pkg/stream", "TestProvisionedStreams",
	},
	{
		5, "a name of its own for what an odd id could cut elsewhere", "ingress/ingress.go",
		[]edit{{"		event.MsgID = contentID(p, body)\n", ""}},
		"ingress", "TestStatusTable",
	},
	{
		5, "a look at the claim: the handler runs although it is done", "workers/claims.go",
		[]edit{{"	case Done, Dead:\n		return r, ErrSettled\n", "	case Done, Dead:\n"}},
		"workers", "TestASecondDeliveryOfWhatIsDoneIsOnlyAcked",
	},
	{
		5, "running only what was claimed", "workers/deliver.go",
		[]edit{{"		r.nak(m, unclaimedPause+r.spread(unclaimedPause))\n		return unclaimed, err\n", ""}},
		"workers", "TestPromise5WithoutAClaimNothingRuns",
	},
	{
		5, "compare-and-set of claims", "workers/kvclaims.go",
		[]edit{{"		Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(claim.Revision, 10)}},\n", "		Header: nats.Header{\"revision\": {strconv.FormatUint(claim.Revision, 10)}},\n"}},
		"workers", "TestKVClaims/one_of_many_takers_wins$",
	},
	{
		5, "the lease of a claim that is running", "workers/claims.go",
		[]edit{{"now.Before(free) {", "now.Before(free.Add(-Grace)) && false {"}},
		"workers", "TestKVClaims/a_running_claim_is_busy_until_its_lease_and_grace",
	},
	{
		5, "grace for clocks that differ", "workers/claims.go",
		[]edit{{"r.LeaseUntil.Add(Grace)", "r.LeaseUntil.Add(0 * Grace)"}},
		"workers", "TestKVClaims/a_running_claim_is_busy_until_its_lease_and_grace",
	},
	{
		5, "renewing the lease", "workers/lease.go",
		[]edit{{"time.AfterFunc(r.worker.AckWait/3, l.renew)", "time.AfterFunc(time.Hour, l.renew)"}},
		"workers", "TestPromise5ALongRunRenewsItsClaim",
	},
	{
		5, "renewing the claim with the delivery", "workers/lease.go",
		[]edit{{"	renewed.Record.LeaseUntil = r.now().Add(r.worker.AckWait)\n", ""}},
		"workers", "TestPromise5ALongRunRenewsItsClaim",
	},
	{
		5, "the fence: a lost lease settles", "workers/kvclaims.go",
		[]edit{{"		case record.Owner != claim.Record.Owner:\n			return claim, ErrLost\n", ""}},
		"workers", "TestKVClaims/a_claim_that_was_taken_over_cannot_be_saved",
	},
	{
		5, "telling a zombie that it is one", "workers/lease.go",
		[]edit{{"		l.lost(ErrLost)\n", ""}},
		"workers", "TestAZombieIsCancelledAndCannotSettle",
	},
	{
		5, "an id of its own for a redrive", "pkg/deadletter/deadletter.go",
		[]edit{{"h.Set(jetstream.MsgIDHeader, \"redrive:\"+l.Worker+\":\"+redrive+\":\"+l.WebhookID)", "h.Set(jetstream.MsgIDHeader, l.WebhookID)"}},
		"workers", "TestARedriveRunsAgainAndOnce",
	},
	{
		5, "a claim of its own for a redrive", "workers/kvclaims.go",
		[]edit{{"k.WebhookID + \"\\x00\" + k.Redrive", "k.WebhookID + \"\\x00\""}},
		"workers", "TestKVClaims/redrives_are_work_of_their_own",
	},

	// 6. One end for every event and worker.
	{
		6, "counting attempts", "workers/claims.go",
		[]edit{{"		r.Attempts++\n", ""}},
		"workers", "TestKVClaims/an_expired_lease_is_taken_over_and_counts_an_attempt",
	},
	{
		6, "an end to attempts that crash", "workers/deliver.go",
		[]edit{{"case claim.Record.Attempts > r.worker.Attempts:", "case claim.Record.Attempts > 1000*r.worker.Attempts:"}},
		"workers", "TestPromise6AnEventThatKillsItsProcessesIsADeadLetterInTheEnd",
	},
	{
		6, "waiting for the dead letter", "workers/deliver.go",
		[]edit{{"	if err != nil { // the archive is full or away", "	if err = nil; err != nil { // the archive is full or away"}},
		"workers", "TestPromise6NothingIsDeadBeforeItsLetterIsStored",
	},
	{
		6, "saying burying before the dead letter", "workers/deliver.go",
		[]edit{{"	if claim.Record.State != Burying {\n", "	if claim.Record.State == Dead {\n"}},
		"workers", "TestPromise6EveryEventEndsInOnePlaceWhereverAProcessDies/dies_after_publish_dead",
	},
	{
		6, "burying again what was being buried: it runs again", "workers/deliver.go",
		[]edit{{"case claim.Record.State == Burying:", "case claim.Record.State == Dead:"}},
		"workers", "TestPromise6EveryEventEndsInOnePlaceWhereverAProcessDies/dies_after_burying",
	},
	{
		6, "one id for the dead letters of an event", "pkg/deadletter/deadletter.go",
		[]edit{{"jetstream.MsgIDHeader: l.Worker + \":\" + l.WebhookID + \":\" + l.Redrive,", "\"id\": l.Worker + \":\" + l.WebhookID + \":\" + l.Redrive,"}},
		"workers", "TestPromise6EveryEventEndsInOnePlaceWhereverAProcessDies/dies_after_publish_dead",
	},
	{
		6, "saving done before the ack", "workers/deliver.go",
		[]edit{{"		_, err := r.save(finished)\n", "		r.ack(m)\n		_, err := r.save(finished)\n"}},
		"workers", "TestPromise6EveryEventEndsInOnePlaceWhereverAProcessDies/dies_after_ack$",
	},
	{
		6, "waiting for the parked copy", "workers/deliver.go",
		[]edit{{"if err := r.park(m, d); err != nil {", "if err := r.park(m, d); err != nil && false {"}},
		"workers", "TestPromise6WhatCannotBeParkedWaitsInPlace",
	},
	{
		6, "the claim that says parked", "workers/deliver.go",
		[]edit{{"			break\n		}\n		claim.Record.State, f = Parked, parked\n", "			break\n		}\n		f = parked\n"}},
		"workers", "TestALongWaitIsParkedAndDoesNotHoldUpTheWorker",
	},
	{
		6, "leaving a parked event to its copy", "workers/claims.go",
		[]edit{{"		if r.State == Parked && !t.Parked {\n			return r, ErrSettled\n		}\n", ""}},
		"workers", "TestKVClaims/parked_is_for_the_parked_copy",
	},
	{
		6, "deliveries without end: the server gives up", "pkg/stream/objects.go",
		[]edit{{"c.MaxDeliver = -1 //", "c.MaxDeliver = 3 //"}},
		"workers", "TestWhatFailsIsTriedAgainUntilItSucceeds",
	},
	{
		6, "giving back what this version does not handle", "workers/deliver.go",
		[]edit{{"		r.nak(m, unhandledPause)\n", "		r.ack(m)\n"}},
		"workers", "TestWhatThisVersionDoesNotHandleIsGivenBack",
	},
	{
		6, "making an error of a panic", "workers/deliver.go",
		[]edit{{"if p := recover(); p != nil {", "if p := error(nil); p != nil {"}},
		"workers", "TestWhatKeepsFailingIsADeadLetter/when_it_panics",
	},
	{
		6, "claims that outlive their events", "pkg/stream/objects.go",
		[]edit{{"		c.MaxAge = ttl\n", "		c.MaxAge = min(ttl, time.Hour)\n"}},
		"pkg/stream", "TestProvisionedStreams",
	},

	// 7. A stop loses nothing.
	{
		7, "giving the attempt back at a stop", "workers/deliver.go",
		[]edit{{"	claim.Record.Attempts--\n	claim.Record.Next = r.now()\n", "	claim.Record.Next = r.now()\n"}},
		"workers", "TestPromise7AStopFinishesWhatWasBegunAndBurnsNoAttempt",
	},
	{
		7, "asking again to have a lost attempt back", "workers/deliver.go",
		[]edit{{"_, _ = r.save(r.back(claim))", "_, _ = r.claims.Save(context.Background(), r.back(claim))"}},
		"workers", "TestPromise7ALeaseThatIsLostBurnsNoAttempt",
	},
	{
		7, "handing back what was taken and not begun", "workers/run.go",
		[]edit{{"	r.nak(m, backPause+r.spread(backPause))\n", ""}},
		"workers", "TestPromise7WhatWasNotBegunIsHandedBackAtOnce",
	},
	{
		7, "time to finish for handlers", "workers/run.go",
		[]edit{{"handlers, end := context.WithCancelCause(context.Background())", "handlers, end := context.WithCancelCause(ctx)"}},
		"workers", "TestPromise7AStopFinishesWhatWasBegunAndBurnsNoAttempt",
	},
	{
		7, "finishing requests in flight", "ingress/run.go",
		[]edit{{"err := server.Shutdown(ctx)", "err := server.Close()"}},
		"ingress", "TestDrainFinishesWhatIsInFlight",
	},
	{
		7, "not being ready while draining", "ingress/run.go",
		[]edit{{"	p.Health.Drain()\n", ""}},
		"ingress", "TestPromise7_WhoeverStopsIsNotReady",
	},

	// 8. Every refusal says why, and tells a stranger nothing.
	{
		8, "the reason in the log", "ingress/door.go",
		[]edit{{"zap.String(\"reason\", a.reason), ", ""}},
		"ingress", "TestPromise8_EveryRefusalSaysWhyAndTellsAStrangerNothing",
	},
	{
		8, "the reason in the metric", "ingress/metrics.go",
		[]edit{{"		m.refusals.WithLabelValues(a.reason).Inc()\n", "		m.refusals.WithLabelValues(a.outcome).Inc()\n"}},
		"ingress", "TestPromise8_EveryRefusalSaysWhyAndTellsAStrangerNothing",
	},
	{
		8, "silence in the answer", "ingress/door.go",
		[]edit{{"	c.Response().WriteHeader(a.status)\n", "	c.Response().WriteHeader(a.status)\n	if err != nil {\n		_, _ = c.Response().Write([]byte(err.Error()))\n	}\n"}},
		"ingress", "TestPromise8_EveryRefusalSaysWhyAndTellsAStrangerNothing",
	},
	{
		8, "one answer for a wrong clock and a forgery", "ingress/answer.go",
		[]edit{{"{signature.ErrTooOld, answer{http.StatusUnauthorized,", "{signature.ErrTooOld, answer{http.StatusForbidden,"}},
		"ingress", "TestPromise8_EveryRefusalSaysWhyAndTellsAStrangerNothing",
	},
	{
		8, "hiding the key in errors", "pkg/signature/key.go",
		[]edit{{"fmt.Errorf(\"key is %d bytes long, at least %d are needed: perhaps it was cut, give all of it\", len(b), minKeyBytes)", "fmt.Errorf(\"key %s is %d bytes long, at least %d are needed\", s, len(b), minKeyBytes)"}},
		"pkg/signature", "TestParseKey",
	},
	{
		8, "the cause in a dead letter", "pkg/deadletter/deadletter.go",
		[]edit{{"		HeaderLastError:       l.LastError,\n", ""}},
		"workers", "TestWhatKeepsFailingIsADeadLetter",
	},
	{
		8, "asking for a cure when nothing is provisioned", "pkg/stream/bind.go",
		[]edit{{"return nil, fmt.Errorf(\"%s: %w: run headgate provision, or start with --provision\", w.object(), ErrNotProvisioned)", "return nil, fmt.Errorf(\"%s: %w\", w.object(), ErrNotProvisioned)"}},
		"workers", "TestRunRefusesWhatIsNotProvisioned",
	},
}
