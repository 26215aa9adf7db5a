package console

import (
	"net/http"
)

// A refusal says what a reason of the ingress means, and what to do about it.
type refusal struct {
	Reason, Text, Cure string
	// Ours says that Headgate could not store it, and the sender tries again.
	Ours bool
}

// refusals are the reasons of the ingress, in its words.
var refusals = []refusal{
	{Reason: "no_match", Text: "no configured key matches the signature", Cure: "Compare the fingerprints that the ingress logs at its start with the key in the Portal, and add the right one. Capture one request and ask headgate verify request.txt --secret-file KEY."},
	{Reason: "unsigned", Text: "the signature headers are missing", Cure: "A proxy drops them, or the request is not Codat's."},
	{Reason: "malformed", Text: "the signature headers have a form that no signer sends", Cure: "Look for a proxy that changes headers."},
	{Reason: "too_old", Text: "signed too long ago", Cure: "Compare the clock of the ingress with another one. An old request that is sent again is refused too."},
	{Reason: "too_new", Text: "signed in the future", Cure: "Compare the clock of the ingress with another one."},
	{Reason: "path_signed", Text: "a signed request came to a path that is no source's", Cure: "Compare the endpoint's URL at Codat with --path."},
	{Reason: "path", Text: "the path is no source's", Cure: "Nothing: the Internet tries paths."},
	{Reason: "method", Text: "the method is not POST", Cure: "Nothing: Codat sends POST."},
	{Reason: "body_too_large", Text: "the body is over the limit", Cure: "Raise --max-body of the ingress."},
	{Reason: "body_slow", Text: "the body did not arrive in time", Cure: "Look for a proxy that holds bodies back."},
	{Reason: "body_broken", Text: "the body ended early, or has another form than its headers announce", Cure: "Look for a proxy that changes bodies."},
	{Reason: "address", Text: "the client's address is not allowed", Cure: "Compare --allow-from with the addresses that Codat publishes, and --trust-proxy with your load balancer."},
	{Reason: "client_certificate", Text: "the client has presented no certificate", Cure: "The load balancer must present one."},
	{Reason: "authorization", Text: "the header Authorization is missing or wrong", Cure: "Compare the endpoint's header at Codat with the files of the ingress."},
	{Reason: "client_id", Text: "the header X-Codat-ClientId is missing or wrong", Cure: "Compare it with the client id in the Portal."},
	{Reason: "rate_limited", Text: "too many unauthenticated requests from one address", Cure: "Nothing, unless it is Codat's address: then look at no_match."},
	{Reason: "too_many_in_flight", Text: "as many requests as the limit allows are being stored", Cure: "Look at the time that storing takes, and add an ingress.", Ours: true},
	{Reason: "body_memory", Text: "the bodies in flight use all memory that they may use", Cure: "Give the ingress more memory, or add one.", Ours: true},
	{Reason: "verification_busy", Text: "too many verifications at a time", Cure: "Add an ingress, or processors.", Ours: true},
	{Reason: "stream_full", Text: "the stream is full", Cure: "See A stream is full in docs/operate.md.", Ours: true},
	{Reason: "stream_unavailable", Text: "the stream did not acknowledge", Cure: "Look at the servers: headgate doctor.", Ours: true},
	{Reason: "publish_window_full", Text: "too many events wait for their acknowledgement", Cure: "Look at the servers: headgate doctor.", Ours: true},
	{Reason: "max_payload", Text: "the event is larger than the server takes", Cure: "Raise max_payload of the NATS servers.", Ours: true},
	{Reason: "id_in_process", Text: "the same event is being stored", Cure: "Nothing: Codat sends it again.", Ours: true},
	{Reason: "id_stays_in_process", Text: "the id stays in process although other events are stored", Cure: "Let another server lead the stream.", Ours: true},
	{Reason: "not_stored", Text: "verified, but not stored in time", Cure: "Look at the servers: headgate doctor.", Ours: true},
	{Reason: "panic", Text: "a bug", Cure: "The log line of the request has the stack. Report it.", Ours: true},
	{Reason: "internal", Text: "a bug", Cure: "The log line of the request says more. Report it.", Ours: true},
}

// refusalOf returns what a reason means.
func refusalOf(reason string) refusal {
	for _, r := range refusals {
		if r.Reason == reason {
			return r
		}
	}
	return refusal{Reason: reason, Text: "this console does not know the reason", Cure: "The ingress may be newer than the console."}
}

// A refusedRow is a reason with how often it was.
type refusedRow struct {
	refusal
	Hour, Day, Ever float64
	Instances       []refusalCount
}

// servePath shows what was refused, and why.
func (c *Console) serveRefused(w http.ResponseWriter, r *http.Request) {
	in := c.hub.facts(r.Context()).survey.ingress
	var rows []refusedRow
	for _, known := range refusals {
		row := refusedRow{refusal: known, Hour: in.lastHour[known.Reason], Ever: in.refusals[known.Reason]}
		for _, n := range in.day {
			if n.Reason == known.Reason {
				row.Day += n.Count
				row.Instances = append(row.Instances, n)
			}
		}
		if row.Ever > 0 {
			rows = append(rows, row)
		}
	}
	c.render(w, r, "refused", struct {
		Asked bool
		Since any
		Rows  []refusedRow
		All   []refusal
	}{in.asked, in.since, rows, refusals})
}
