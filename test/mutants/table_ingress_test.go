//go:build mutants

package mutants

// ingressMutants change package ingress.
var ingressMutants = []mutant{
	// 1. No success before durability.
	{
		1, "waiting for the store before the answer", "ingress handler.store",
		swap("s.PublishUntil(c, t, m)", `func() (stream.Receipt, error) {
		go s.PublishUntil(c, t, m)
		return stream.Receipt{}, nil
		}()`),
		"ingress TestPromise1_NoSuccessBeforeDurability",
	},
	{
		1, "the store's refusal in the answer", "ingress handler.store",
		swap("s.PublishUntil(c, t, m)", `func() (stream.Receipt, error) {
		receipt, _ := s.PublishUntil(c, t, m)
		return receipt, nil
		}()`),
		"ingress TestPromise1_NoSuccessBeforeDurability",
	},

	// 2. No verified event is lost.
	{
		2, "making a stream again that was deleted", "ingress keepProvisioned",
		never("slices.Equal(m, b)"),
		"ingress TestKeepProvisioned_MakesStreamsAgainAndSaysSo",
	},
	{
		2, "the quarantine: what is unreadable is refused", "ingress handler.store",
		before("b.Message(s, e, x)", `if e.Quarantine != "" {
		return errNotStored
		}`),
		"ingress TestPromise2_EveryVerifiedRequestIsStored",
	},
	{
		2, "reading again after a response", "ingress/connlimit conn.answered",
		drop("c.bodyRead.Store(false)"),
		"ingress TestServer_ReadsItsConnectionsOnlyForRequests",
	},
	{
		2, "verification slots for Codat's own addresses", "ingress handler.receive",
		swap("h.slots[c]", "h.slots[classPublic]"),
		"ingress TestHandler_VerifiesCodatsRequestsDuringAFloodOfForgeries",
	},
	{
		2, "a subject for unknown types", "ingress readEvent",
		swap("codat.ValidateType(t)", `func() error {
		if !codat.Known(t) {
			return errNotStored
		}
		return codat.ValidateType(t)
		}()`),
		"ingress TestPromise2_EveryVerifiedRequestIsStored",
	},
	{
		2, "storing the event of a client that has disconnected", "ingress handler.store",
		swap("context.WithoutCancel(c)", "c"),
		"ingress TestPromise2_StoresTheEventOfADisconnectedClient",
	},
	{
		2, "503 for a full stream", "ingress responses",
		swap("{stream.ErrFull, x{s, o, r}}", "{stream.ErrFull, x{http.StatusRequestEntityTooLarge, refused, r}}"),
		"ingress TestPromise2_Answers503ForAFullStream",
	},
	{
		2, "the keys of a file that cannot be read now", "pkg/watchfile Lines.Read",
		swap("k = l.last[n][f]", "k = nil"),
		"ingress TestRun_KeepsTheKeysOfAFileThatCannotBeRead",
	},
	{
		2, "memory that unverified bodies cannot take", "ingress budget.unverifiedLimit",
		swap("b.limit / 2", "b.limit"),
		"ingress TestBudget_KeepsMemoryForSmallAndVerifiedBodies",
	},
	{
		2, "requests in flight for Codat's own addresses", "ingress classOf",
		swap("classCodat", "classPublic"),
		"ingress TestRun_CountsInFlightByClientClass",
	},

	{
		2, "closing the connection that has been unverified longest", "ingress/connlimit conn.before",
		swap("c.unverifiedSince.Load() < o.unverifiedSince.Load()", "c.unverifiedSince.Load() > o.unverifiedSince.Load()"),
		"ingress/connlimit TestListener_ClosesTheLongestUnverifiedConnectionAtTheLimit",
	},
	{
		2, "keeping the connection of a verified request", "ingress handler.receive",
		drop("connlimit.Verified(r)"),
		"ingress TestServe_KeepsConnectionsWhoseEventsAreBeingStored",
	},
	{
		2, "the limit of header lines", "ingress Settings.listen",
		swap("maxHeaderLines", "0"),
		"ingress TestRun_LimitsHeaderLines",
	},
	{
		2, "memory for one body of many that do not come", "ingress Settings.listen",
		drop("l.DropReceiving"),
		"ingress TestRun_LimitsTheMemoryOfBodies",
	},
	{
		2, "room for bodies in the order in which they wait", "ingress budget.reserveOrDrop",
		always("n <= firstBuffer || b.waiting.Load() == 0"),
		"ingress TestBudget_GivesRoomInTheOrderOfWaiting",
	},
	{
		2, "closing only a connection whose body is read", "ingress/connlimit conn.receiving",
		swap("c.phase == inBody && c.reading", "c.phase == inBody"),
		"ingress/connlimit TestListener_DropReceivingClosesAConnectionThatIsRead",
	},
	{
		2, "the idle time-out of a new connection", "ingress/connlimit conn.phaseDeadline",
		swap("c.limits.idle", "c.limits.head"),
		"ingress/connlimit TestListener_AnswersAConnectionThatWasSilentAtFirst",
	},
	{
		2, "closing the connection of a client that sends more than a request", "ingress/connlimit Pipelined",
		swap("r.ContentLength < 0 || c.beyond > r.ContentLength", "r.ContentLength < 0"),
		"ingress/connlimit TestPipelined_ReportsMoreThanTheRequest",
	},

	// 3. Nothing unverified is stored.
	{
		3, "verification before reading", "ingress handler.receive",
		swap("k.Verify(c, b)", `func() (signature.Verified, error) {
		verified, err := k.Verify(c, b)
		if _, unreadable := codat.Read(b); unreadable != nil {
			return verified, nil
		}
		return verified, err
		}()`),
		"ingress TestPromise3_UnreadableRequestsAreVerified",
	},
	{
		3, "verification of the raw bytes: the body is trimmed before", "ingress handler.receive",
		swap("k.Verify(c, b)", "k.Verify(c, []byte(strings.TrimSpace(string(b))))"),
		"ingress TestPromise4_BytesStayBytes",
	},
	{
		3, "checking Authorization", "ingress credentials.accept",
		swap("f == 1", "f <= 1"),
		"ingress TestHandler_RequiresAuthorization",
	},
	{
		3, "the list of addresses", "ingress handler.checkAccess",
		swap("errAddress", "nil"),
		"ingress TestHandler_RequiresAnAllowedAddress",
	},
	{
		3, "trusting named proxies only", "pkg/clientip Of",
		nth(1, drop("!p.Contains(c)")),
		"pkg/clientip TestOf",
	},
	{
		3, "keeping the keys of two sources apart", "ingress sharedKey",
		never("i != j"),
		"ingress TestRun_RejectsAKeyOfAnotherSource",
	},

	// 4. Bytes stay bytes.
	{
		4, "storing the body as it came: it is written anew", "ingress handler.store",
		swap("b.Message(s, e, x)", `b.Message(s, e, []byte(strings.ReplaceAll(string(x), " ", "")))`),
		"ingress TestPromise4_BytesStayBytes",
	},
	{
		4, "leaving the line end where it was", "ingress handler.store",
		swap("b.Message(s, e, x)", "b.Message(s, e, []byte(strings.TrimSpace(string(x))))"),
		"ingress TestPromise4_BytesStayBytes",
	},
	{
		4, "keeping the buffer until the store has returned", "ingress handler.receive",
		move("b.recycle()", "store"),
		"ingress TestPromise4_StoredBytesAreNotReused",
	},

	// 5. Once per webhook-id.
	{
		5, "the id that the signature covers: it is read from any header", "ingress readEvent",
		given("ContentType: h.Get(n)", swap("ID: x", `ID: h.Get("webhook-id")`)),
		"ingress TestPromise3_IgnoresTheIDOfUnverifiedHeaders",
	},
	{
		5, "a message id of its own for an id with a dot", "ingress readEvent",
		drop("e.MsgID = x"),
		"ingress TestHandler_RespondsWithTheStatusOfTheTable",
	},

	// 7. A stop loses nothing.
	{
		7, "finishing requests in flight", "ingress serve",
		swap("s.Shutdown(c)", "s.Close()"),
		"ingress TestRun_FinishesRequestsInFlight",
	},
	{
		7, "not being ready while draining", "ingress serve",
		drop("p.Health.Drain()"),
		"ingress TestPromise7_NotReadyWhileDraining",
	},

	// 8. Every refusal says why in the log and metrics only.
	{
		8, "the reason in the log", "ingress handler.logRequest",
		swap(`zap.String("reason", x)`, "zap.Skip()"),
		"ingress TestPromise8_LogsTheReasonAndRespondsWithNothing",
	},
	{
		8, "the reason in the metric", "ingress metrics.count",
		swap("m.refusals.WithLabelValues(r.reason)", "m.refusals.WithLabelValues(r.outcome)"),
		"ingress TestPromise8_LogsTheReasonAndRespondsWithNothing",
	},
	{
		8, "telling an id that stays in process from a lost quorum", "ingress idsInProcess.refused",
		swap("n != i.stored", "true"),
		"ingress TestIDsInProcess_TellsOneThatStaysFromALostQuorum",
	},
	{
		8, "silence in the answer", "ingress handler.respond",
		before("f := ended{c.Request(), r, a, e, b}", `if e != nil {
		_, _ = c.Response().Write([]byte(e.Error()))
		}`),
		"ingress TestPromise8_LogsTheReasonAndRespondsWithNothing",
	},
	{
		8, "one answer for a wrong clock and a forgery", "ingress responses",
		swap("{signature.ErrTooOld, x{s, o, r}}", "{signature.ErrTooOld, x{http.StatusForbidden, o, r}}"),
		"ingress TestPromise8_LogsTheReasonAndRespondsWithNothing",
	},
	{
		8, "the limit of log lines for a reason", "ingress refusalLog.allow",
		always("l.counts[r] <= maxRefusalLines"),
		"ingress TestRefusalLog_CountsWhatItLeavesOut",
	},
	{
		8, "the line that counts refusals without one", "ingress refusalLog.summarize",
		drop("l.log.Warn(m, c, r)"),
		"ingress TestRefusalLog_CountsWhatItLeavesOut",
	},
	{
		8, "the limit for the log lines of requests", "ingress handler.logEnded",
		swap("!h.observe(e.request, e.response, d) && e.recorded", "!h.observe(e.request, e.response, d)"),
		"ingress TestRun_LimitsLogLinesAndSpansOfRefusals",
	},
	{
		8, "the limit of the diagnoses", "ingress handler.respond",
		always("h.diagnoses[r.class].AllowN(r.received, 1)"),
		"ingress TestHandler_DiagnosesSomeOfManyRefusals",
	},
	{
		8, "the limit for the spans of requests", "ingress handler.respond",
		swap("b && r.span == nil && h.tracer != nil", "r.span == nil && h.tracer != nil"),
		"ingress TestRun_LimitsLogLinesAndSpansOfRefusals",
	},
	{
		2, "the coding identity", "pkg/stream Stored.Encoded",
		swap(`!strings.EqualFold(c, "identity")`, "true"),
		"ingress TestHandler_TakesIdentityForNoEncoding",
	},
	{
		8, "naming the PROXY protocol", "ingress/connlimit conn.endRead",
		drop("c.refusal = errProxyProtocol"),
		"ingress TestRun_NamesTheProxyProtocol",
	},
	{
		2, "the second in which a client that was verified may send its body", "ingress/connlimit conn.receiving",
		swap("!c.wasVerified.Load() || time.Since(c.since) > bodyGrace", "true"),
		"ingress/connlimit TestListener_DropReceivingSparesAConnectionThatWasVerified",
	},
}
