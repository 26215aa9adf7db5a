package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
)

var eventChecks = []check{
	{"HG-EVT-001", "last event", "in the last 3 days, and in the first hour of the stream", "headgatesilent", messages, (*facts).lastEvent},
	{"HG-EVT-002", "quarantine", "nothing came into it in the last day", "headgatequarantine", messages, (*facts).quarantine},
	{"HG-EVT-003", "silent types", "no type is silent for longer than usual", "headgatetypesilent", expected, (*facts).silentTypes},
	{"HG-EVT-004", "overdue writes", "each write has its outcome in time", "headgatewritesoverdue", expected, (*facts).overdueWrites},
	{"HG-EVT-005", "stale reads", "data is read with success within --stale-reads-after of headgate watch", "headgatereadsstale", expected, (*facts).staleReads},
}

var codatChecks = []check{
	{"HG-COD-001", "API of Codat", "it answers the API key", "headgateendpointsunknown", nothing, (*facts).codatAnswers},
	{"HG-COD-002", "enabled endpoints at Codat", "none is disabled; Codat disables one that fails for 5 days", "headgateendpointdisabled", codatAPI, (*facts).disabledEndpoints},
	{"HG-COD-003", "number of endpoints at Codat", "one at least, and fewer than Codat allows", "the-endpoints-at-codat", codatAPI, (*facts).endpointCount},
	{"HG-COD-004", "subscribed types", "an endpoint has each type that a consumer takes by name", "headgatetypesnotsubscribed", codatAPI, (*facts).subscribedTypes},
	{"HG-COD-005", "quota of calls of Codat's API", "not used up", "headgatequotaexhausted", quotaTold, (*facts).quotaLeft},
}

const silentCure = "look at the endpoint in Codat's Portal (disabled, deleted, another URL), then at DNS, certificate and balancer; Recover there what was missed"

func (f *facts) lastEvent() finding {
	switch last := f.snapshot.LastEvent; {
	case !last.IsZero():
		age := max(0, f.now.Sub(last))
		return graded(age > silentFail, false, span(age)+" ago", silentCure)
	case f.snapshot.Created.IsZero():
		return skip("stream " + f.Source.Stream() + " does not answer")
	default:
		age := f.now.Sub(f.snapshot.Created)
		return graded(age > silentFail, age > noFirst, "none since the stream was made "+span(age)+" ago", silentCure)
	}
}

func (f *facts) quarantine() finding {
	if f.snapshot.Quarantined == nil {
		return skip("stream " + f.Source.Stream() + " does not answer")
	}
	measured := fmt.Sprintf("%d stored", *f.snapshot.Quarantined)
	if f.quarantined.IsZero() {
		return ok(measured)
	}
	age := f.now.Sub(f.quarantined)
	return graded(false, age < quarantine, measured+", the newest "+span(age)+" ago", "headgate quarantine list says why each is there")
}

// missing grades how much of a kind has not come.
func (f *facts) missingOf(kind state.ExpectedKind, what string, name func(state.Expected) string, cure string) finding {
	all := f.expected[kind]
	if len(all) == 0 {
		return ok("none")
	}
	measured := fmt.Sprintf("%d %s, the first due %s ago", len(all), what, span(f.now.Sub(all[0].Due)))
	if name != nil {
		var names []string
		for _, e := range all {
			names = append(names, name(e))
		}
		measured = listed(names)
	}
	return warn(measured, cure)
}

func (f *facts) silentTypes() finding {
	return f.missingOf(state.SilentType, "types", func(e state.Expected) string { return e.Type },
		"look at the types of the endpoint in Codat's Portal; --ignore-type of headgate watch leaves one out")
}

func (f *facts) overdueWrites() finding {
	return f.missingOf(state.OverdueWrite, "writes", nil, "headgate expected --kind overdue lists them")
}

func (f *facts) staleReads() finding {
	return f.missingOf(state.StaleRead, "data types", nil, "headgate expected --kind stale lists them")
}

func (f *facts) codatAnswers() finding {
	switch err := f.missing[codatAPI]; {
	case f.Endpoints == nil:
		return skip(err.Error())
	case err != nil:
		return fail("it does not", err.Error()+": while it does not, a disabled endpoint is not noticed")
	}
	return ok("it does")
}

// disabledEndpoints also says how near the enabled ones are to it, when each delivery since the last event has failed: the API tells
// of no failures.
func (f *facts) disabledEndpoints() finding {
	var disabled []string
	for _, e := range f.endpoints {
		if e.Disabled {
			disabled = append(disabled, e.ID)
		}
	}
	if len(disabled) > 0 {
		return fail("disabled: "+listed(disabled), "repair what refused the deliveries, enable the endpoint in Codat's Portal, and Recover there what was missed")
	}
	if len(f.endpoints) == 0 {
		return skip("there is no endpoint")
	}
	measured := fmt.Sprintf("%d enabled", len(f.endpoints))
	if last := f.snapshot.LastEvent; !last.IsZero() {
		measured += fmt.Sprintf(", for %s at least", span(max(0, disableAfter-max(0, f.now.Sub(last)))))
	}
	return ok(measured)
}

func (f *facts) endpointCount() finding {
	n := len(f.endpoints)
	measured := fmt.Sprintf("%d of %d", n, f.MaxEndpoints)
	return graded(n == 0, n >= f.MaxEndpoints, measured, "headgate endpoints create makes one; delete those that nobody needs: headgate endpoints list")
}

func (f *facts) subscribedTypes() finding {
	if why := f.reason(consumers); why != "" {
		return skip(why)
	}
	var missing []string
	for _, typ := range codat.Current() {
		needed := slices.ContainsFunc(f.consumed, func(p codat.Pattern) bool { return p.Match(typ) })
		subscribed := slices.ContainsFunc(f.endpoints, func(e Endpoint) bool { return len(e.Types) == 0 || slices.Contains(e.Types, typ) })
		if needed && !subscribed {
			missing = append(missing, typ)
		}
	}
	return graded(false, len(missing) > 0, cmp.Or(listed(missing), "all"), "add the types to an endpoint in Codat's Portal")
}

func (f *facts) quotaLeft() finding {
	until := f.quota.PausedUntil(f.now)
	return graded(false, !until.IsZero(), quotaText(f.quota, until, f.now), "Codat renews it at 00:00 UTC; ask Codat for a larger one")
}

func quotaText(q state.Quota, until, now time.Time) string {
	switch {
	case !until.IsZero():
		return "used up for " + span(until.Sub(now)) + " more"
	case q.Received.IsZero():
		return "no event has told of it"
	}
	return "not used up"
}
