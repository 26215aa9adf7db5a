package main

import (
	"cmp"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
)

// A planGraph draws the steps of a plan from top to bottom, each below those that it waits for.
type planGraph struct {
	record plan.Record
	graph  []plan.GraphRow
}

// graphRow is a step with what is drawn left of it, and left of the lines below.
type graphRow struct {
	step         int
	first, below string
}

// newPlanGraph returns the graph of a record whose plan is valid.
func newPlanGraph(r plan.Record) *planGraph { return &planGraph{r, r.Plan.Graph()} }

// rows returns the steps with their lines, all as wide as the widest.
func (g *planGraph) rows() []graphRow {
	rows, width := make([]graphRow, len(g.graph)), 0
	for i, row := range g.graph {
		var below strings.Builder
		for _, line := range row.Below {
			below.WriteString(map[bool]string{true: "│ ", false: "  "}[line])
		}
		rows[i] = graphRow{row.Step, g.draw(row), below.String()}
		width = max(width, utf8.RuneCountInString(rows[i].first))
	}
	for i := range rows {
		for _, line := range []*string{&rows[i].first, &rows[i].below} {
			*line += strings.Repeat(" ", width-utf8.RuneCountInString(*line))
		}
	}
	return rows
}

// draw returns the lanes beside a step, with a line from each of those that join to its node.
func (g *planGraph) draw(row plan.GraphRow) string {
	left, right := row.Lane, row.Lane
	for lane, l := range row.Lanes {
		if l.Joins {
			left, right = min(left, lane), max(right, lane)
		}
	}
	var b strings.Builder
	for lane, l := range row.Lanes {
		inside := lane > left && lane < right
		switch {
		case lane == row.Lane:
			b.WriteString(stateMark(g.record.Steps[row.Step].State))
		case l.Joins:
			b.WriteString(joint(lane == left, lane == right, l.Ends))
		case l.Line:
			b.WriteString("│")
		default:
			b.WriteString(map[bool]string{true: "─", false: " "}[inside])
		}
		b.WriteString(map[bool]string{true: "─", false: " "}[lane >= left && lane < right])
	}
	return b.String()
}

// joint is where the line of a lane meets the one to the node: at its left end, at its right end, or between them.
func joint(left, right, ends bool) string {
	switch {
	case left && ends:
		return "╰"
	case left:
		return "├"
	case right && ends:
		return "╯"
	case right:
		return "┤"
	case ends:
		return "┴"
	}
	return "┼"
}

// stateMark is the node of a step.
func stateMark(s plan.State) string {
	switch s {
	case plan.Done, plan.Skipped:
		return "●"
	case plan.Failed:
		return "✗"
	case plan.Unknown:
		return "?"
	}
	return "○"
}

// text returns the whole drawing: for each step a line with its state and what it waits for, and below it what became of it.
func (g *planGraph) text() string {
	names, states := 0, 0
	for _, s := range g.record.Steps {
		names, states = max(names, utf8.RuneCountInString(s.Name)), max(states, len(s.State))
	}
	var b strings.Builder
	for _, row := range g.rows() {
		p, s := g.record.Plan.Steps[row.step], g.record.Steps[row.step]
		fmt.Fprintf(&b, "%s %-*s  %-*s  %s %s", row.first, names, printable(s.Name), states, s.State, p.Kind, printable(string(p.DataType)))
		var after []string
		for _, i := range g.record.Plan.Before(row.step) {
			after = append(after, g.record.Plan.Steps[i].Name)
		}
		if len(after) > 0 {
			b.WriteString(", after " + strings.Join(after, ", "))
		}
		b.WriteByte('\n')
		for _, detail := range stepDetails(s) {
			fmt.Fprintf(&b, "%s %-*s  %s\n", row.below, names, "", detail)
		}
	}
	return b.String()
}

// stepDetails are the lines below a step.
func stepDetails(s plan.StepRecord) []string {
	var made, lines []string
	for _, one := range [][2]string{{"record", s.Record}, {"attachment", s.Attachment}, {"push operation", s.PushOperationKey}} {
		if one[1] != "" {
			made = append(made, one[0]+" "+printable(one[1]))
		}
	}
	if s.Try > 1 {
		made = append(made, fmt.Sprintf("try %d", s.Try))
	}
	if len(made) > 0 {
		lines = append(lines, strings.Join(made, ", "))
	}
	if s.Wait != "" {
		lines = append(lines, fmt.Sprintf("until %s: %s", formatTime(s.NotBefore), printable(s.Wait)))
	}
	if s.Evidence != "" {
		lines = append(lines, printable(s.Evidence))
	}
	return append(lines, reasonLines(s.Reason)...)
}

// reasonLines are what Codat or the platform says of a write.
func reasonLines(r *state.WriteReason) []string {
	if r == nil {
		return nil
	}
	lines := []string{"reason: " + printable(r.Message)}
	for _, list := range []struct {
		kind    string
		remarks []state.WriteRemark
	}{{"error", r.Errors}, {"warning", r.Warnings}} {
		for _, one := range list.remarks {
			lines = append(lines, fmt.Sprintf("%s: %s: %s", list.kind, printable(cmp.Or(one.Item, one.Validator)), printable(one.Message)))
		}
	}
	return lines
}
