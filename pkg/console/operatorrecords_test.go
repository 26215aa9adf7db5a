package console_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestOperator_ListsActionsWithTheirEnds(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t)
	record := func(e operator.Entry) {
		t.Helper()
		text, err := json.Marshal(e)
		if err == nil {
			_, err = server.JS.Publish(t.Context(), stream.Source(source).OperatorSubject(), text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c := newConsole(t, server.JS)
	must(t, "empty", get(c, "/operator"), 200, "No operator has done anything yet.")

	replay := operator.Entry{User: "ada", Host: "h1", Command: "dead replay", Redrive: "r-1", Count: 1204, Chosen: map[string]any{"worker": "writes", "type": hostile}}
	step := func(e operator.Entry, step string, given int, problem string) {
		e.Step, e.Given, e.Error = step, given, problem
		record(e)
	}
	step(replay, operator.StepBegin, 0, "")
	pause := operator.Entry{User: "eve", Host: "h2", Command: "pause", Count: 1, Chosen: map[string]any{"worker": "reads"}}
	step(pause, operator.StepBegin, 0, "")
	step(replay, operator.StepGiven, 900, "")
	step(pause, operator.StepEnd, 0, "no such worker "+hostile)
	step(replay, operator.StepEnd, 1200, "")
	record(operator.Entry{User: "vic", Command: "console show body", Step: operator.StepEnd, Chosen: map[string]any{"event": 7}, Count: 1})
	step(operator.Entry{User: "bob", Command: "erase", Count: 9}, operator.StepBegin, 0, "")

	body := must(t, "all", get(c, "/operator"), 200, "1,200 of 1,204", "redrive r-1", "no such worker &#34;&gt;&lt;script", "event 7", "shown", "it runs, or its process died", "no end is recorded")
	if n := strings.Count(body, `<tr><td>`); n != 4 {
		t.Errorf("%d actions are listed; want 4", n)
	}
	if strings.Index(body, ">bob<") > strings.Index(body, ">vic<") || strings.Index(body, ">eve<") > strings.Index(body, ">ada<") {
		t.Error("the newest action is not first")
	}
	lacks(t, "user", must(t, "user", get(c, "/operator?user=ada"), 200, "1,200 of 1,204"), ">eve<", ">bob<")
	lacks(t, "command", must(t, "command", get(c, "/operator?command=pause"), 200, "failed"), "bob", "r-1")
	must(t, "nothing", get(c, "/operator?user=nobody"), 200, "No action matches.")

	for i := range 120 {
		e := operator.Entry{User: "many", Command: "resume", Count: 1, Chosen: map[string]any{"worker": fmt.Sprint("w", i)}}
		step(e, operator.StepBegin, 0, "")
		step(e, operator.StepEnd, 1, "")
	}
	rows, pages := 0, 0
	for path := "/operator"; path != ""; pages++ {
		body := must(t, path, get(c, path), 200)
		rows += strings.Count(body, `<tr><td>`)
		_, rest, more := strings.Cut(body, `<a href="/operator?before=`)
		if path = ""; more {
			number, _, _ := strings.Cut(rest, `"`)
			path = "/operator?before=" + number
		}
	}
	if rows != 124 || pages != 3 {
		t.Errorf("%d actions on %d pages; want 124 on 3", rows, pages)
	}
}
