package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/process"
)

const (
	// barAfter is the time after which the bar is shown.
	barAfter = time.Second
	// barEvery is the shortest time between two updates.
	barEvery = 100 * time.Millisecond
	barWidth = 30
)

// progressBar shows progress on one line of a terminal, which it overwrites. Without a terminal it shows nothing.
type progressBar struct {
	out   io.Writer // nil without a terminal
	now   func() time.Time
	begun time.Time
	drawn time.Time
	width int // of the present line
}

// newProgressBar returns a bar on t.err.
func newProgressBar(t *terminal) *progressBar {
	b := &progressBar{now: time.Now, begun: time.Now()}
	out := t.err
	if p, ok := out.(process.Printable); ok {
		out = p.W // the bar moves the cursor
	}
	if f, ok := out.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			b.out = f
		}
	}
	return b
}

// show updates the bar. It may be called very often.
func (b *progressBar) show(what string, done, of uint64) {
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

// clear clears the line.
func (b *progressBar) clear() {
	if b.width > 0 {
		b.paint("")
		fmt.Fprint(b.out, "\r")
	}
}

func (b *progressBar) paint(line string) {
	fmt.Fprint(b.out, "\r"+line+strings.Repeat(" ", max(0, b.width-len(line))))
	b.width = len(line)
}
