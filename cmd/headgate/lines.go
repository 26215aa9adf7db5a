package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
)

// lines is a log whose lines about requests and deliveries, of which the parts write one each, are written for people
// to out. Everything else goes to the log below; those lines too when it wants to know that much, or when they are
// errors.
type lines struct {
	zapcore.Core
	out   io.Writer
	taken []string // types and patterns that some worker takes
}

// request and delivery are how the lines begin.
const (
	request  = "request"
	delivery = "event "
)

// Enabled says what is worth a line.
func (l *lines) Enabled(level zapcore.Level) bool {
	return level >= zapcore.InfoLevel || l.Core.Enabled(level)
}

// With keeps the fields for the log below; the lines need none of them.
func (l *lines) With(fields []zapcore.Field) zapcore.Core {
	return &lines{l.Core.With(fields), l.out, l.taken}
}

// Check decides who writes an entry.
func (l *lines) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.Level >= zapcore.InfoLevel && (e.Message == request || strings.HasPrefix(e.Message, delivery)) {
		to = to.AddCore(e, l)
		if e.Level < zapcore.ErrorLevel && !l.Core.Enabled(zapcore.InfoLevel) {
			return to
		}
	}
	return l.Core.Check(e, to)
}

// Write writes an entry for people.
func (l *lines) Write(e zapcore.Entry, fields []zapcore.Field) error {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(m)
	}
	line := l.request(m.Fields)
	if e.Message != request {
		line = readDelivery(e.LoggerName, m.Fields)
	}
	_, err := io.WriteString(l.out, line+"\n")
	return err
}

func (l *lines) request(m map[string]any) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-11s %-24s %s %v in %s", m["outcome"], word(m["type"]), word(m["id"]), m["status"], span(m["took"]))
	switch m["outcome"] {
	case "accepted":
		if typ, _ := m["type"].(string); !slices.ContainsFunc(l.taken, func(name string) bool { return matches(name, typ) }) {
			b.WriteString(", no worker here takes it")
		}
	case "duplicate":
		b.WriteString(", stored before")
	case "quarantined":
		fmt.Fprintf(&b, ", %s: headgate quarantine list", word(m["quarantine"]))
	default:
		fmt.Fprintf(&b, ", %s", word(m["reason"]))
	}
	return b.String()
}

// outcomes are the fates of a delivery in the words of a reader who does not know them.
var outcomes = map[string]string{
	"done":      "handled",
	"later":     "failed",
	"parked":    "waits",
	"dead":      "gave up",
	"unhandled": "waits",
	"givenback": "given back",
}

func readDelivery(logger string, m map[string]any) string {
	worker := strings.TrimPrefix(logger[strings.LastIndex(logger, ".")+1:], "worker-")
	fate, _ := m["fate"].(string)
	outcome := outcomes[fate]
	if outcome == "" {
		outcome = fate
	}
	line := fmt.Sprintf("%-11s %-24s %s by %s, attempt %v in %s", outcome, word(m["type"]), word(m["id"]), worker, m["attempt"], span(m["took"]))
	if redrive, ok := m["redrive"]; ok {
		line += fmt.Sprintf(", redrive %s", word(redrive))
	}
	if cause, ok := m["cause"]; ok {
		line += fmt.Sprintf(": %s", word(cause))
	}
	if fate == "dead" {
		line += ": headgate dead list"
	}
	return line
}

func word(v any) string {
	s, _ := v.(string)
	return clean(s)
}

func span(v any) string {
	d, _ := v.(time.Duration)
	return took(d)
}

// matches reports whether a type is called name; a * in name stands for one word.
func matches(name, typ string) bool {
	names, words := strings.Split(name, "."), strings.Split(typ, ".")
	return slices.EqualFunc(names, words, func(n, w string) bool { return n == "*" || n == w })
}
