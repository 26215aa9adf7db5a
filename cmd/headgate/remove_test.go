package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestRemove_WorkerIsPreviewedAndRemoved(t *testing.T) {
	t.Parallel()
	r := newBroker(t, stream.WorkerSpec{Name: "mailer", Types: []codat.Pattern{"company.*"}}, stream.WorkerSpec{Name: "writes", Types: []codat.Pattern{"company.*"}})
	contains(t, r.headgate(1, "remove", "worker", "nobody").err.String(), `no worker "nobody"`)
	r.event("company.created", "msg_1")
	said := "worker mailer: its consumer on CODAT and CODAT_PARKED, 0 claims, 0 parked, 0 kept dead letters; 0 instances running, 1 events and parked copies waiting"
	contains(t, r.headgate(0, "remove", "worker", "mailer", "--dry-run").out.String(), "dry run: it would remove "+said)
	contains(t, r.headgate(2, "remove", "worker", "mailer").err.String(), "found: "+said, "nothing was removed: add --yes")
	contains(t, r.headgate(1, "remove", "worker", "mailer", "--yes").err.String(), "in use", "--allow-loss")
	contains(t, r.headgate(0, "remove", "worker", "mailer", "--yes", "--allow-loss").out.String(), "removed "+said)
	contains(t, r.headgate(0, "remove", "worker", "writes", "--yes", "--allow-loss").err.String(), "the next headgate provision makes writes again")
	contains(t, r.headgate(2, "remove", "worker", "A*").err.String(), "worker")
}

func TestRemove_SourceNeedsItsName(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	streamtest.Provision(t, r.JS, stream.Layout{Source: "codat-uk"})
	contains(t, r.headgate(0, "remove", "source", "codat-uk", "--dry-run").out.String(), "dry run: it would remove", "0 CODAT_UK,")
	contains(t, r.headgate(2, "remove", "source", "codat-uk").err.String(), "nothing was removed: add --yes=codat-uk")
	contains(t, r.headgate(2, "remove", "source", "codat-uk", "--yes=codat").err.String(), "--yes must be the name of the source")
	contains(t, r.headgate(1, "remove", "source", "another", "--yes=another").err.String(), "there is no stream and no bucket of a source")
	c := r.headgate(0, "remove", "source", "codat-uk", "--yes=codat-uk", "--json")
	contains(t, c.out.String(), `"removed":["`, `"CODAT_UK"]`)
	contains(t, c.err.String(), "kept: CODAT_UK_OPERATOR")
	left := r.headgate(0, "streams", "--all", "-o", "id").out.String()
	if strings.Contains(left, "CODAT_UK_DEAD") || !strings.Contains(left, "CODAT_DEAD\n") {
		t.Errorf("left are %s; want the other source", left)
	}
}

// The runbooks that delete run as docs/operate.md has them.
func TestOperate_RunbooksThatDeleteRun(t *testing.T) {
	t.Parallel()
	r := newBroker(t, stream.WorkerSpec{Name: "mailer", Types: []codat.Pattern{"company.*"}})
	streamtest.Provision(t, r.JS, stream.Layout{Source: "codat-uk"})
	r.ofCompany("c0ffee00-0000-4000-8000-00000000000a", 2)
	text, err := os.ReadFile(operate)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, heading := range []string{"\n## Erase a company's data\n", "\n## Remove a source or a worker\n"} {
		_, section, ok := strings.Cut(string(text), heading)
		if !ok {
			t.Fatalf("%s has no heading %q", operate, heading)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		for _, line := range regexp.MustCompile(`(?m)^headgate (.*)$`).FindAllStringSubmatch(section, -1) {
			command, _, _ := strings.Cut(line[1], "#")
			args := strings.Fields(strings.ReplaceAll(command, "worker W", "worker mailer"))
			r.headgate(0, args...)
			ran++
		}
	}
	if left := r.headgate(0, "streams", "--all", "-o", "id").out.String(); ran != 7 || strings.Contains(left, "CODAT_UK\n") || strings.Contains(left, "claims_mailer") {
		t.Errorf("after %d commands the streams are\n%s\nwant seven, and the source and the worker gone", ran, left)
	}
}

func TestStreams_ListsThoseOfTheSourceOrAll(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	streamtest.Provision(t, r.JS, stream.Layout{Source: "codat-uk"})
	if text := r.headgate(0, "streams").out.String(); !strings.Contains(text, "codat.events.>,codat.quarantine") || strings.Contains(text, "CODAT_UK") {
		t.Errorf("headgate streams prints\n%s\nwant the streams of the source, with their subjects", text)
	}
	contains(t, r.headgate(0, "streams", "--all", "-o", "json").out.String(), `"name":"CODAT_UK"`, `"foreign":true`)
}

func TestStepDown_SaysWhenThereIsOneCopy(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	contains(t, r.headgate(1, "step-down").err.String(), "stream CODAT: the stream has one copy")
	contains(t, r.headgate(1, "step-down", "$X.>").err.String(), "headgate streams lists them")
}

func TestPlans_StopPrintsWhatWouldGoOn(t *testing.T) {
	t.Parallel()
	r := newBrokerWithPlans(t)
	kv, err := r.JS.KeyValue(t.Context(), source.StateBucket(plan.StateName))
	if err == nil {
		_, err = kv.Put(t.Context(), plan.OpenPrefix+"07", []byte(`{"expense-1":1,"expense-2":4}`))
	}
	if err != nil {
		t.Fatal(err)
	}
	c := r.headgate(0, "plans", "stop", "--dry-run")
	if c.out.String() != "expense-1\nexpense-2\n" {
		t.Errorf("it prints %q; want both plans", &c.out)
	}
	contains(t, r.headgate(2, "plans", "stop").err.String(), "found: 2 plans", "no plan was stopped: add --yes")
	contains(t, r.headgate(0, "plans", "stop", "--yes").err.String(), "2 plans stopped")
	contains(t, r.headgate(0, "plans", "stop", "--yes", "--json").out.String(), `"ids":[]`)
}
