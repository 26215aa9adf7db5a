package plan

import "slices"

// A GraphRow is one step in a drawing of a plan, in which each step is below those that it waits for. Lines from a step to the steps
// that wait for it go down in lanes, which are columns.
type GraphRow struct {
	Step int // place in Plan.Steps
	Lane int // of the step itself
	// Lanes are the lanes at the height of the step, and Below says in which of them a line goes on below it.
	Lanes []GraphLane
	Below []bool
}

// A GraphLane is what a lane has at the height of a step.
type GraphLane struct {
	Line  bool // a line comes from above
	Joins bool // the line leads to the step
	Ends  bool // no later step needs the line
}

// free marks a lane without a line.
const free = -1

// A grapher draws a plan row by row.
type grapher struct {
	plan  Plan
	order []int // of the steps
	lanes []int // the step whose line is in each lane, or free
}

// Graph returns the drawing of a valid plan. The steps of a cycle, which no valid plan has, are absent.
func (p Plan) Graph() []GraphRow {
	g := &grapher{plan: p}
	for len(g.order) < len(p.Steps) {
		before := len(g.order)
		for i := range p.Steps {
			waits := slices.ContainsFunc(p.Before(i), func(b int) bool { return !slices.Contains(g.order, b) })
			if !waits && !slices.Contains(g.order, i) {
				g.order = append(g.order, i)
				break
			}
		}
		if len(g.order) == before {
			break
		}
	}
	rows := make([]GraphRow, len(g.order))
	for i, step := range g.order {
		rows[i] = g.row(step)
	}
	return rows
}

// row draws a step, and leaves the lanes as they are below it.
func (g *grapher) row(step int) GraphRow {
	before := g.plan.Before(step)
	row := GraphRow{Step: step, Lane: free}
	for lane, from := range g.lanes {
		l := GraphLane{Line: from != free, Joins: from != free && slices.Contains(before, from), Ends: from != free && g.lastOf(from) == step}
		row.Lanes = append(row.Lanes, l)
		if row.Lane == free && l.Joins && l.Ends {
			row.Lane = lane // the line ends in the step
		}
	}
	if row.Lane == free {
		row.Lane = slices.Index(g.lanes, free)
	}
	if row.Lane == free {
		row.Lane = len(g.lanes)
		g.lanes, row.Lanes = append(g.lanes, free), append(row.Lanes, GraphLane{})
	}
	for lane, l := range row.Lanes {
		if l.Joins && l.Ends {
			g.lanes[lane] = free
		}
	}
	if g.lastOf(step) != free {
		g.lanes[row.Lane] = step
	}
	for n := len(g.lanes); n > 0 && g.lanes[n-1] == free; n-- {
		g.lanes = g.lanes[:n-1]
	}
	for _, from := range g.lanes {
		row.Below = append(row.Below, from != free)
	}
	return row
}

// lastOf returns the step that is drawn last of those that wait for a step, or free.
func (g *grapher) lastOf(step int) int {
	for _, i := range slices.Backward(g.order) {
		if slices.Contains(g.plan.Before(i), step) {
			return i
		}
	}
	return free
}
