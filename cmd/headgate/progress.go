package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const (
	// barAfter is how long something must take before it is worth a bar.
	barAfter = time.Second
	// barEvery is the pause between two pictures of it.
	barEvery = 100 * time.Millisecond
	barWidth = 30
)

// bar shows how far something is, on one line that is painted over. Without a terminal it shows nothing.
type bar struct {
	out   io.Writer // nil without a terminal
	now   func() time.Time
	begun time.Time
	drawn time.Time
	width int // of what stands on the line
}

// newBar is a bar on t.err.
func newBar(t *terminal) *bar {
	b := &bar{now: time.Now, begun: time.Now()}
	if f, ok := t.err.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			b.out = f
		}
	}
	return b
}

// show paints how much of what is done. It may be called very often.
func (b *bar) show(what string, done, of uint64) {
	if b.out == nil || of == 0 {
		return
	}
	now := b.now()
	if now.Sub(b.begun) < barAfter || now.Sub(b.drawn) < barEvery {
		return
	}
	b.drawn = now
	full := int(min(done, of) * barWidth / of)
	line := fmt.Sprintf("[%s%s] %3d %% of %d %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), min(done, of)*100/of, of, what)
	b.paint(line)
}

// clear leaves the line to what is printed next.
func (b *bar) clear() {
	if b.width > 0 {
		b.paint("")
		fmt.Fprint(b.out, "\r")
	}
}

func (b *bar) paint(line string) {
	fmt.Fprint(b.out, "\r"+line+strings.Repeat(" ", max(0, b.width-len(line))))
	b.width = len(line)
}
