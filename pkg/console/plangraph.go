package console

import (
	"fmt"
	"html/template"
	"strings"
	"unicode/utf8"

	"github.com/headgate/headgate/pkg/plan"
)

// The measures of the drawing of a plan, in its own units, which are pixels.
const (
	graphRow  = 30  // height of a step
	graphLane = 20  // width of a lane
	graphLeft = 16  // of the middle of the first lane
	graphChar = 7.3 // width of a character of the style sheet's font for drawings
)

// A planDrawing is a plan as SVG: a row for each step, as headgate plans show draws it, with its state as shape, word and colour.
type planDrawing struct {
	strings.Builder
	record plan.Record
	text   float64 // where the texts begin
	names  int     // characters of the longest name
}

// drawPlan draws a plan. Each step leads to its line in the table, whose id is step-<name>.
func drawPlan(r plan.Record) template.HTML {
	rows := r.Plan.Graph()
	d := &planDrawing{record: r}
	lanes, texts := 0, 0
	for _, row := range rows {
		lanes = max(lanes, len(row.Lanes))
		d.names = max(d.names, utf8.RuneCountInString(r.Plan.Steps[row.Step].Name))
	}
	for _, row := range rows {
		texts = max(texts, d.names+2+utf8.RuneCountInString(d.label(row.Step)))
	}
	d.text = graphLeft + float64(lanes)*graphLane
	width, height := int(d.text+float64(texts)*graphChar)+graphLeft, len(rows)*graphRow
	fmt.Fprintf(d, `<svg class="graph" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="The steps of the plan, each below those that it waits for; the table has the same">`, width, height, width, height)
	for i, row := range rows {
		d.lines(i, row)
	}
	for i, row := range rows {
		d.step(i, row)
	}
	d.WriteString(`</svg>`)
	return template.HTML(d.String())
}

// label is what is written beside the name of a step.
func (d *planDrawing) label(step int) string {
	s := d.record.Plan.Steps[step]
	return fmt.Sprintf("%-9s  %s %s", d.record.Steps[step].State, s.Kind, s.DataType)
}

func middle(lane int) int { return graphLeft + lane*graphLane }

// lines draws the lines at the height of a step.
func (d *planDrawing) lines(i int, row plan.GraphRow) {
	top, y, bottom := i*graphRow, i*graphRow+graphRow/2, (i+1)*graphRow
	var path strings.Builder
	for lane, l := range row.Lanes {
		x := middle(lane)
		if l.Line {
			fmt.Fprintf(&path, "M%d %dV%d", x, top, y)
		}
		if l.Joins && lane != row.Lane {
			fmt.Fprintf(&path, "M%d %dH%d", x, y, middle(row.Lane))
		}
	}
	for lane, line := range row.Below {
		if line {
			fmt.Fprintf(&path, "M%d %dV%d", middle(lane), y, bottom)
		}
	}
	if path.Len() > 0 {
		fmt.Fprintf(d, `<path class="line" d="%s"/>`, path.String())
	}
}

// step draws the shape of a step, and its texts.
func (d *planDrawing) step(i int, row plan.GraphRow) {
	x, y, name := middle(row.Lane), i*graphRow+graphRow/2, d.record.Plan.Steps[row.Step].Name
	s := d.record.Steps[row.Step].State
	fmt.Fprintf(d, `<a href="#step-%s" class="%s">%s`, template.URLQueryEscaper(name), stepLevel(s), stepShape(s, x, y))
	fmt.Fprintf(d, `<text x="%.0f" y="%d">%s</text>`, d.text, y+4, template.HTMLEscapeString(name))
	fmt.Fprintf(d, `<text class="label" xml:space="preserve" x="%.0f" y="%d">%s</text></a>`, d.text+float64(d.names+2)*graphChar, y+4, template.HTMLEscapeString(d.label(row.Step)))
}

// stepShape is a disc for what is done, a dash for what was left out, a diamond for what needs a person, a square for what Codat works on,
// and a ring for what waits.
func stepShape(s plan.State, x, y int) string {
	switch s {
	case plan.Done:
		return fmt.Sprintf(`<circle class="full" cx="%d" cy="%d" r="6"/>`, x, y)
	case plan.Skipped, plan.Cancelled:
		return fmt.Sprintf(`<circle class="ring" cx="%d" cy="%d" r="5.5"/><path class="mark" d="M%d %dh6"/>`, x, y, x-3, y)
	case plan.Failed:
		return fmt.Sprintf(`<path class="full" d="M%d %dl7 7-7 7-7-7z"/>`, x, y-7)
	case plan.Unknown:
		return fmt.Sprintf(`<path class="ring" d="M%d %dl7.5 7.5-7.5 7.5-7.5-7.5z"/><path class="mark" d="M%d %dv4m0 2v1.5"/>`, x, y-7, x, y-3)
	case plan.Pushing, plan.Pending:
		return fmt.Sprintf(`<rect class="ring" x="%d" y="%d" width="11" height="11"/><rect class="full" x="%d" y="%d" width="5" height="5"/>`, x-5, y-5, x-2, y-2)
	}
	return fmt.Sprintf(`<circle class="ring" cx="%d" cy="%d" r="5.5"/>`, x, y)
}
