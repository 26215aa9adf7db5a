//go:build browser

// Package browser looks at the console of a running headgate dev in Chromium. make browser runs it.
package browser

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// deadline bounds each wait: the machine may be slow.
const deadline = 60 * time.Second

// An installation is headgate dev in a process of its own.
type installation struct {
	console, webhook, nats string
	data, binary           string
	stop                   context.CancelFunc
}

// build builds the program once for the package.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "headgate")
	cmd := exec.Command("go", "build", "-o", binary, "./cmd/headgate")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

var (
	consoleLine = regexp.MustCompile(`console\s+(http://\S+?)/\s*$`)
	webhookLine = regexp.MustCompile(`webhook\s+(http://\S+)`)
	natsLine    = regexp.MustCompile(`NATS\s+(nats://\S+)`)
)

// start starts headgate dev with the stand-in for Codat, and waits until it is ready.
func start(t *testing.T, flags ...string) installation {
	t.Helper()
	i := installation{binary: build(t), data: t.TempDir()}
	ctx, cancel := context.WithCancel(context.Background())
	i.stop = cancel
	args := append([]string{
		"dev", "--with-codat", "--data", i.data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
		"--nats-listen", "127.0.0.1:0", "--codat-listen", "127.0.0.1:0",
	}, flags...)
	cmd := exec.CommandContext(ctx, i.binary, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan bool, 1)
	go func() {
		defer close(ready)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			line := lines.Text()
			for pattern, to := range map[*regexp.Regexp]*string{consoleLine: &i.console, webhookLine: &i.webhook, natsLine: &i.nats} {
				if m := pattern.FindStringSubmatch(line); m != nil && *to == "" {
					*to = m[1]
				}
			}
			if strings.Contains(line, "Next, in another terminal") {
				ready <- true
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		for range ready { // it reads to the end of the output
		}
		_ = cmd.Wait()
	})
	select {
	case ok := <-ready:
		if !ok || i.console == "" {
			t.Fatalf("headgate dev ended, or did not print its addresses: %+v", i)
		}
	case <-time.After(deadline):
		t.Fatal("headgate dev was not ready in time")
	}
	return i
}

// headgate runs a command against the installation.
func (i installation) headgate(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(i.binary, args...)
	cmd.Env = append(os.Environ(), "NATS_URL="+i.nats)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("headgate %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// send posts an example event.
func (i installation) send(t *testing.T, args ...string) {
	t.Helper()
	i.headgate(t, append([]string{"send", "--to", i.webhook, "--data", i.data}, args...)...)
}

// A tab is one page of the browser.
type tab struct {
	ctx  context.Context
	t    *testing.T
	base string // address of the console
}

// open opens a tab. The test fails when a page writes to the browser's console, but for answers with an allowed status, or asks
// another host for something.
func open(t *testing.T, i installation, allowed ...string) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.Flag("disable-dev-shm-usage", true))
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	ctx, cancelTime := context.WithTimeout(ctx, 4*time.Minute)
	b := &tab{ctx: ctx, t: t, base: i.console}
	t.Cleanup(func() { cancelTime(); cancel(); cancelAllocator() })
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("Chromium does not start (Debian package chromium): %v", err)
	}
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			if !slices.ContainsFunc(allowed, func(status string) bool { return strings.Contains(m.Text, "a status of "+status) }) {
				t.Errorf("the browser's console says %s: %s", m.Type, m.Text)
			}
		}
	}()
	if err := chromedp.Listen(ctx, func(event any) {
		if r, ok := event.(*network.EventRequestWillBeSent); ok && !strings.HasPrefix(r.Request.URL, i.console+"/") && !strings.HasPrefix(r.Request.URL, "data:") {
			t.Errorf("a page asks %s", r.Request.URL)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// do runs actions, or ends the test.
func (b *tab) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, deadline)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// goTo opens a page of the console.
func (b *tab) goTo(path string) { b.t.Helper(); b.do("open "+path, chromedp.Navigate(b.base+path)) }

// evaluate returns the value of an expression in the page.
func evaluate[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// wait waits until an expression is true in the page, or in the one that a link leads to meanwhile.
func (b *tab) wait(expression string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, deadline)
	defer cancel()
	for {
		_, err := chromedp.Run(ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(deadline)))
		if err == nil {
			return
		}
		left := strings.Contains(err.Error(), "context") || strings.Contains(err.Error(), "navigated")
		if ctx.Err() != nil || !left {
			b.t.Fatalf("wait for %s: %v", expression, err)
		}
	}
}

// look sets the width and the colour scheme of the page.
func (b *tab) look(width int64, scheme string) {
	b.t.Helper()
	b.do("viewport", chromedp.EmulateViewport(width, 900))
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, media); err != nil {
		b.t.Fatal(err)
	}
}

// screenshot keeps a picture of the whole page.
func (b *tab) screenshot(name string) {
	b.t.Helper()
	r, err := chromedp.Call(b.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{CaptureBeyondViewport: new(true)})
	if err != nil {
		b.t.Fatal(err)
	}
	folder := filepath.Join("..", "..", "build", "screenshots")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, name+".png"), r.Data, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// everywhere calls look at both widths and in both colour schemes.
func (b *tab) everywhere(look func(suffix string)) {
	for _, width := range []int64{1440, 360} {
		for _, scheme := range []string{"light", "dark"} {
			b.look(width, scheme)
			look(fmt.Sprintf("%d-%s", width, scheme))
		}
	}
}
