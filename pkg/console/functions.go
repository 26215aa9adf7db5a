package console

import (
	"cmp"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/headgate/headgate/pkg/inspect"
)

// functions are what templates can call.
var functions = template.FuncMap{
	"asset": asset,
	"time":  timeElement,
	"count": count,
	"bytes": byteSize,
	"span":  span,
	"mark":  mark,
	"level": func(state inspect.HandlingState) level { return cmp.Or(handlingLevels[state], neutral) },
	"href":  href,
	"short": shortID,
	// Ids in foreign events have any form.
	"company": companyLink,
	"write":   writeLink,
	"whole":   func(n float64) string { return count(int(n)) },
	"age":     func(t time.Time) string { return ago(t, time.Now()) },
}

// href is the address behind a value, and "" when there is no such page.
func href(address string) string {
	u, err := url.Parse(address)
	if err != nil || address == "" {
		return ""
	}
	if strings.HasPrefix(u.Path, "/companies/") {
		return address
	}
	for _, page := range navigation {
		if u.Path == page.Path || page.Path != "/" && strings.HasPrefix(u.Path, page.Path+"/") {
			return address
		}
	}
	return ""
}

// marks are the shapes of the levels: a disc, a ring, a diamond and a dash.
var marks = map[level]template.HTML{
	good:    `<circle class="f" cx="5" cy="5" r="4"/>`,
	waiting: `<circle class="s" cx="5" cy="5" r="3.6"/>`,
	alarm:   `<path class="f" d="M5 0 10 5 5 10 0 5Z"/>`,
	neutral: `<path class="s" d="M1 5H9"/>`,
}

// mark is the shape and colour of a level. A word stands beside it.
func mark(l level) template.HTML {
	shape, ok := marks[l]
	if !ok {
		l, shape = neutral, marks[neutral]
	}
	return `<svg class="mark ` + template.HTML(l) + `" viewBox="0 0 10 10" aria-hidden="true">` + shape + `</svg>`
}

// shortID is the beginning and the end of a long id; its element has the whole one in its title.
func shortID(id string) string {
	if r := []rune(id); len(r) > 20 {
		return string(r[:8]) + "…" + string(r[len(r)-6:])
	}
	return id
}

// timeElement is a time for people: in UTC, and with the script in the reader's zone. A time that is zero is a dash.
func timeElement(t time.Time) template.HTML {
	if t.IsZero() {
		return "–"
	}
	utc := t.UTC()
	return template.HTML(`<time datetime="` + utc.Format(time.RFC3339Nano) + `" title="` + utc.Format("2006-01-02 15:04:05.000 UTC") + `">` +
		utc.Format("2006-01-02 15:04:05") + ` UTC</time>`)
}

// count groups the digits of a number by thousands.
func count(n any) string {
	var digits string
	switch n := n.(type) {
	case int:
		digits = strconv.Itoa(n)
	case int64:
		digits = strconv.FormatInt(n, 10)
	case uint64:
		digits = strconv.FormatUint(n, 10)
	default:
		return "–"
	}
	sign := ""
	if digits[0] == '-' {
		sign, digits = "−", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// byteSize is a number of bytes with its unit.
func byteSize(n any) string {
	switch n := n.(type) {
	case int:
		return units.BytesSize(float64(n))
	case int64:
		return units.BytesSize(float64(n))
	case uint64:
		return units.BytesSize(float64(n))
	}
	return "–"
}

// span is a duration in its two largest units: 3 d 4 h, 12 min, 8 s.
func span(d time.Duration) string {
	day := 24 * time.Hour
	two := func(big, small time.Duration, bigUnit, smallUnit string) string {
		s := strconv.FormatInt(int64(d/big), 10) + " " + bigUnit
		if rest := d % big / small; rest > 0 {
			s += " " + strconv.FormatInt(int64(rest), 10) + " " + smallUnit
		}
		return s
	}
	switch {
	case d < 0:
		d = -d
		return "−" + span(d)
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < time.Minute:
		return strconv.FormatInt(int64(d/time.Second), 10) + " s"
	case d < time.Hour:
		return two(time.Minute, time.Second, "min", "s")
	case d < day:
		return two(time.Hour, time.Minute, "h", "min")
	}
	return two(day, time.Hour, "d", "h")
}
