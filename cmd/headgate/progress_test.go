package main

import (
	"strings"
	"testing"
	"time"
)

func TestProgressBar_OverwritesItsLine(t *testing.T) {
	t.Parallel()
	var s strings.Builder
	now := time.Now()
	b := &progressBar{out: &s, now: func() time.Time { return now }, begun: now}
	b.show("events", 1, 200)
	if s.String() != "" {
		t.Errorf("it shows %q at once; want nothing of what may be over in a moment", s.String())
	}
	now = now.Add(2 * time.Second)
	b.show("events", 100, 200)
	b.show("events", 101, 200) // too soon to be seen
	now = now.Add(time.Second)
	b.show("ids", 4, 3)
	b.clear()
	half := "[" + strings.Repeat("#", 15) + strings.Repeat(".", 15) + "]  50 % of 200 events"
	full := "[" + strings.Repeat("#", 30) + "] 100 % of 3 ids"
	want := "\r" + half + "\r" + full + strings.Repeat(" ", len(half)-len(full)) + "\r" + strings.Repeat(" ", len(full)) + "\r"
	if s.String() != want {
		t.Errorf("it shows %q; want %q", s.String(), want)
	}
}

func TestProgressBar_NeedsTerminal(t *testing.T) {
	t.Parallel()
	var s screen
	b := newProgressBar(&terminal{err: &s})
	b.begun = time.Now().Add(-time.Hour)
	b.show("events", 1, 2)
	b.clear()
	if s.String() != "" {
		t.Errorf("it shows %q", &s)
	}
}
