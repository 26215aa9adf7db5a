package doctor

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// connectionCode is the code of the check of the connection.
const connectionCode = "HG-NATS-001"

var natsChecks = []check{
	{connectionCode, "connection to NATS", "a server accepts this user in time", "doctor-nats", nothing, (*facts).connected},
	{"HG-NATS-002", "time of an answer of NATS", "under 2 s", "headgateacceptslow", connection, (*facts).roundTrip},
	{"HG-NATS-003", "version of the NATS server", "2.15 or later; fails below 2.12", "doctor-nats", connection, (*facts).version},
	{"HG-NATS-004", "JetStream", "it answers this account", "doctor-nats", connection, (*facts).jetStream},
	{"HG-NATS-005", "largest message", "takes the largest body of the ingress with its headers", "doctor-nats", connection, (*facts).maxPayload},
	{"HG-NATS-006", "permissions of this user", "it may read all that an operator reads", "doctor-nats", connection, (*facts).permitted},
	{"HG-NATS-007", "storage of the account", "under 70 % of its limit; fails over 85 %", "a-stream-is-full", account, (*facts).accountStorage},
}

func (f *facts) connected() finding {
	if err := f.missing[connection]; err != nil {
		return fail("no connection", err.Error())
	}
	return ok("connected")
}

func (f *facts) roundTrip() finding {
	return graded(false, f.server.roundTrip > slowAnswer, span(f.server.roundTrip), "look at the network to NATS and at the load of the server")
}

// parseVersion returns the first two numbers of a version.
func parseVersion(text string) (v [2]int, err error) {
	parts := strings.SplitN(strings.TrimPrefix(text, "v"), ".", 3)
	if len(parts) < 2 {
		return v, errors.New("not a version")
	}
	for i := range v {
		if v[i], err = strconv.Atoi(parts[i]); err != nil {
			return v, errors.New("not a version")
		}
	}
	return v, nil
}

func before(a, b [2]int) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

func (f *facts) version() finding {
	v, err := parseVersion(f.server.version)
	if err != nil {
		return warn(f.server.version, "the server says no version that can be compared")
	}
	return graded(before(v, minServer), before(v, goodServer), f.server.version, "upgrade the NATS servers, one after the other")
}

func (f *facts) jetStream() finding {
	switch err := f.missing[account]; {
	case err == nil:
		return ok("it answers")
	case !f.asked:
		return skip(err.Error())
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fail("not enabled", "enable JetStream on the server and for this account")
	default:
		return fail("no answer", "JetStream does not answer: enable it on the server and for this account, or wait until the cluster has a leader: "+err.Error())
	}
}

func size(bytes int64) string { return units.BytesSize(float64(bytes)) }

func (f *facts) maxPayload() finding {
	need := f.MaxBody + stream.HeaderRoom
	measured := fmt.Sprintf("%s; a body of %s needs %s", size(f.server.maxPayload), size(f.MaxBody), size(need))
	return graded(f.server.maxPayload < need, false, measured, "raise max_payload on the servers, or lower --max-body of the ingress")
}

func (f *facts) permitted() finding {
	of := len(f.permissions())
	if f.unsaid > 0 && len(f.denied) == 0 {
		return skip(fmt.Sprintf("the server said nothing of %d of %d subjects in time", f.unsaid, of))
	}
	measured := fmt.Sprintf("%d of %d subjects", of-len(f.denied)-f.unsaid, of)
	if f.unsaid > 0 {
		measured += fmt.Sprintf("; the server said nothing of %d in time", f.unsaid)
	}
	return graded(false, len(f.denied) > 0, measured, "this user may not publish to "+listed(f.denied)+": use the key of operator, or give this user the permissions of that role; what needs them is skipped")
}

func (f *facts) accountStorage() finding {
	a := f.server.account
	worst, of := -1.0, ""
	for _, t := range append(slices.Collect(maps.Values(a.Tiers)), a.Tier) { // an account has limits for each number of replicas, or for all
		if part := float64(t.Store) / float64(t.Limits.MaxStore); t.Limits.MaxStore > 0 && part > worst {
			worst, of = part, percent(part)+" of "+size(t.Limits.MaxStore)
		}
	}
	if worst < 0 {
		return ok(size(int64(a.Store)) + "; the account has no limit")
	}
	return graded(worst > fillFail, worst > fillWarn, of, "raise the storage limit of the account")
}

func percent(part float64) string { return fmt.Sprintf("%.0f %%", part*100) }

var clockChecks = []check{
	{"HG-CLK-001", "clock of this machine against NATS", "less than 60 s apart; fails over 5 min", "headgateclockskew", eventsKept, (*facts).clock},
	{"HG-CLK-002", "clocks of the NATS servers", "less than 60 s from this machine's; fails over 5 min", "headgateclockskew", servers, (*facts).serverClocks},
	{"HG-CLK-003", "clocks of the ingresses", "the last signature seems less than 60 s old; fails over 5 min", "headgateclockskew", processes, (*facts).ingressClocks},
}

const clockCure = "correct the clock of the machine (chrony, systemd-timesyncd): an ingress refuses signatures that seem older or newer than 5 minutes"

func clockFinding(apart time.Duration, of string) finding {
	return graded(apart.Abs() > clockFail, apart.Abs() > clockWarn, of+span(apart.Abs())+" apart", clockCure)
}

func (f *facts) clock() finding { return clockFinding(f.server.clock, "") }

func (f *facts) serverClocks() finding {
	var worst time.Duration
	of := ""
	for _, s := range f.snapshot.Servers {
		if s.Answered && s.Clock.Abs() >= worst.Abs() {
			worst, of = s.Clock, s.Name+" "
		}
	}
	if of == "" {
		return skip("no server answers at its monitoring address")
	}
	return clockFinding(worst, of)
}

func (f *facts) ingressClocks() finding {
	ages := f.metrics("headgate_ingress_signature_age_seconds")
	if len(ages) == 0 {
		return skip("no ingress with a --metrics-url has verified a request")
	}
	var worst time.Duration
	for _, m := range ages {
		if age := time.Duration(m.Value * float64(time.Second)); age.Abs() > worst.Abs() {
			worst = age
		}
	}
	return clockFinding(worst, "")
}
