package console

import (
	"html/template"
	"math"
	"strconv"
	"strings"
)

// The size of a trend in its own units; the style sheet stretches it.
const (
	trendWidth  = 100
	trendHeight = 34
)

// area draws values, oldest first, as a filled line from 0 to the highest, with text for those who do not see it. Its colours
// are the style sheet's: alarm chooses that of an alert.
func area(label string, values []float64, alarm bool) template.HTML {
	highest := 0.0
	for _, v := range values {
		highest = math.Max(highest, v)
	}
	var line strings.Builder
	for i, v := range values {
		x, y := 0.0, float64(trendHeight-1)
		if len(values) > 1 {
			x = trendWidth * float64(i) / float64(len(values)-1)
		}
		if highest > 0 {
			y -= (trendHeight - 3) * math.Max(v, 0) / highest
		}
		command := "L"
		if i == 0 {
			command = "M"
		}
		line.WriteString(command + coordinate(x) + " " + coordinate(y))
	}
	suffix := ""
	if alarm {
		suffix = "-bad"
	}
	svg := `<svg class="trend" viewBox="0 0 100 34" preserveAspectRatio="none" role="img" aria-label="` + template.HTMLEscapeString(label) + `">`
	if len(values) > 1 {
		svg += `<path class="area` + suffix + `" d="` + line.String() + `V34H0Z"/><path class="line` + suffix + `" d="` + line.String() + `"/>`
	}
	return template.HTML(svg + `</svg>`)
}

func coordinate(v float64) string {
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}
