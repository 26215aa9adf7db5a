//go:build mutants

package mutants

// streamMutants change package stream and its embedded server.
var streamMutants = []mutant{
	// 1. No success before durability.
	{
		1, "waiting for the disk", "pkg/stream/embedded Start",
		swap("SyncAlways: x", "SyncAlways: false"),
		"test/faults TestPromise1_AnAckMeansThatTheDiskHasIt/always",
	},
	{
		1, "waiting for the stream's ack", "pkg/stream Publisher.publish",
		swap("r, e = p.answer(c, s)", `r = Receipt{Stream: "CODAT", Sequence: 7}`),
		"pkg/stream TestPublisher_WaitsForAckOfStream",
	},
	{
		1, "the check of the sequence in an ack", "pkg/stream slot.read",
		swap(`a.Stream == "" || a.Sequence == 0`, `a.Stream == ""`),
		"pkg/stream TestPromise1_AckWithoutSequenceIsNoSuccess",
	},
	{
		1, "the check of the stream in an ack", "pkg/stream slot.ownAck",
		never("storesSubject"),
		"pkg/stream TestPromise1_AckOfAnotherStreamIsNotTheEvents",
	},
	{
		1, "doubt when the ack is late", "pkg/stream Publisher.answer",
		swap("return Receipt{}, errLate", `return Receipt{Stream: "CODAT", Sequence: 1}, nil`),
		"pkg/stream TestPublisher_RetriesLostAck",
	},
	{
		1, "telling the acks of two messages apart", "pkg/stream Publisher.deliver",
		swap("s.gen == g", "s.gen >= g"),
		"pkg/stream TestPublisher_IgnoresAckOfAnotherMessage",
	},
	{
		1, "storing without compression, which a replica cannot always read again", "pkg/stream Layout.common",
		swap("c.Compression = x", "c.Compression = jetstream.S2Compression"),
		"pkg/stream TestProvision_Streams",
	},

	// 2. No verified event is lost.
	{
		2, "refusing when the stream is full: the oldest is dropped", "pkg/stream Layout.common",
		swap("c.Discard = x", "c.Discard = jetstream.DiscardOld"),
		"ingress TestPromise2_Answers503ForAFullStream",
	},
	{
		2, "a retry when the outcome is unknown", "pkg/stream Publisher.publish",
		nth(1, swap("!errors.Is(e, errUnknown)", "e != errLate")),
		"pkg/stream TestPublisher_RetriesUnknownOutcome",
	},
	{
		2, "the check that the stream has room", "pkg/stream Source.Check",
		never("s.State.Bytes"),
		"pkg/stream TestCheck_NamesWhyNoEventIsStored",
	},

	{
		2, "leaving a server that stores nothing", "pkg/stream outage.add",
		swap("l >= electionTime", "l < 0"),
		"pkg/stream TestOutage_LastsLongerThanAnElection",
	},

	// 5. Once per webhook-id.
	{
		5, "the message id", "pkg/stream Builder.Message",
		swap("jetstream.MsgIDHeader", `"not-"+jetstream.MsgIDHeader`),
		"ingress TestPromise5_OncePerWebhookID",
	},
	{
		5, "a window as long as the retention", "pkg/stream Layout.eventStream",
		swap("c.Duplicates = x", "c.Duplicates = 2 * time.Minute"),
		"pkg/stream TestProvision_Streams",
	},

	{
		2, "asking the leader for a message that a replica does not have", "pkg/stream get",
		never("errors.Is(e, jetstream.ErrMsgNotFound)"),
		"pkg/operator TestOperator_RedriveSkipsNothingWhereAReplicaIsBehind",
	},
	{
		5, "claims of other workers that outlive the events", "pkg/stream provisioner.otherClaims",
		swap("p.MaxAge + claimsGrace", "time.Hour"),
		"pkg/stream TestProvision_ClaimsOfOtherWorkersOutliveTheEvents",
	},

	// 6. One end for every event and worker.
	{
		6, "a window of letters as long as they are kept", "pkg/stream Layout.deadStream",
		swap("c.Duplicates = x", "c.Duplicates = time.Second"),
		"pkg/deadletter TestBury_StoresALetterOnceAlsoAfterTheWindowOfTheEvents",
	},
	{
		6, "deliveries without end: the server gives up", "pkg/stream WorkerSpec.common",
		swap("c.MaxDeliver = x", "c.MaxDeliver = 3"),
		"workers TestRun_RetriesUntilSuccess",
	},
	{
		6, "claims that outlive their events", "pkg/stream Layout.bucket",
		swap("c.MaxAge = t", "c.MaxAge = min(t, time.Hour)"),
		"pkg/stream TestProvision_Streams",
	},

	// 8. Every refusal says why in the log and metrics only.
	{
		8, "a batch that a slow link carries", "pkg/stream BatchSize.Received",
		drop("b.bytes = n"),
		"pkg/stream TestBatchSize_FollowsTheLink",
	},
	{
		8, "a bound in bytes for what is asked for in order", "pkg/stream subscriber.ordered",
		swap("max(maxBatch, n)", "1<<30"),
		"pkg/stream TestSubscribe_InOrderBoundsItsRequestsInBytes",
	},
	{
		8, "asking for a cure when nothing is provisioned", "pkg/stream bind",
		nth(1, swap("fmt.Errorf(f, o, ErrNotProvisioned, provisionWorker)", `fmt.Errorf("%s: %w", o, ErrNotProvisioned)`)),
		"workers TestRun_RefusesWhatIsNotProvisioned",
	},

	// 6. One outcome for each event and worker.
	{
		6, "the place of a worker whose consumer was deleted", "pkg/stream provisioner.begin",
		swap("BeginFrom(i.Created)", "BeginFrom(i.Created.AddDate(1, 0, 0))"),
		"pkg/stream TestProvision_DeletedConsumerSkipsNothing",
	},
}
