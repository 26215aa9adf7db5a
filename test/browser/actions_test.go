//go:build browser

package browser

import (
	"bytes"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// click clicks an element and waits until the page that it leads to holds an expression.
func (b *tab) click(selector, then string) {
	b.t.Helper()
	b.do("click "+selector, chromedp.Click(selector))
	b.wait(then)
}

// goUntil opens a page again and again until an expression is true in it.
func (b *tab) goUntil(path, expression string) {
	b.t.Helper()
	for end := time.Now().Add(deadline); ; {
		b.goTo(path)
		if evaluate[bool](b, expression) {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("%s: %s is not true within %v", path, expression, deadline)
		}
	}
}

// confirm confirms a preview and follows the action to what it made, at an address.
func (b *tab) confirm(picture, made string) {
	b.t.Helper()
	b.everywhere(func(suffix string) { b.screenshot("TestActions-" + picture + "-" + suffix) })
	b.click(`form.confirm button.primary`, `!location.pathname.startsWith('/actions/')`)
	if job := evaluate[string](b, `location.pathname`); job != made { // it took longer
		b.goUntil(job, `document.querySelector('main a[href="`+made+`"]') !== null`)
		b.click(`main a[href="`+made+`"]`, `location.pathname === '`+made+`'`)
	}
}

// Who clicks sees what an action will do, confirms it, follows it, and lands on what it made.
func TestActions(t *testing.T) {
	i := start(t)
	i.send(t, "connection.connected", "--set", "payload=5")
	plan := filepath.Join(t.TempDir(), "plan.json")
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "plan.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plan, bytes.Replace(text, []byte(`"type": "Expense"`), []byte(`"type": "codattest:failed"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	i.headgate(t, "plans", "submit", plan)
	b := open(t, i)

	b.goUntil("/dead", `document.querySelector('td a[href="/dead/1"]') !== null`)
	b.click(`td a[href="/dead/1"]`, `location.pathname === '/dead/1'`)
	b.click(`form[action="/actions/preview"] button`, `document.querySelector('form.confirm') !== null`)
	b.confirm("dead-replay", "/dead/1")
	b.goUntil("/dead/1", `document.querySelector('.story').textContent.includes('Given again')`)

	b.goUntil("/plans/expense-4711", `document.querySelector('input[value=plan-skip]') !== null`)
	b.everywhere(func(suffix string) { b.screenshot("TestActions-plan-held-" + suffix) })
	b.do("the record of the step", chromedp.SendKeys(`input[name=record]`, "1001"))
	b.click(`form:has(input[value=plan-skip]) button`, `document.querySelector('form.confirm') !== null`)
	b.confirm("plan-skip", "/plans/expense-4711")
	b.goUntil("/plans/expense-4711", `[...document.querySelectorAll('main .state')].some(e => e.textContent.trim() === 'done') && !document.querySelector('input[value=plan-skip]')`)
	b.goTo("/jobs")
	b.everywhere(func(suffix string) { b.screenshot("TestActions-jobs-" + suffix) })
	b.goUntil("/operator", `['dead replay', 'plan'].every(w => document.querySelector('main').textContent.includes(w)) && document.querySelector('main').textContent.includes('local')`)
}

// serve starts headgate console for a user and returns its address.
func (i installation) serve(t *testing.T, name, password string) string {
	t.Helper()
	users := filepath.Join(t.TempDir(), "users.yml")
	cmd := exec.Command(i.binary, "console", "user", name, "--rights", "view")
	cmd.Stdin = strings.NewReader(password + "\n")
	entry, err := cmd.Output()
	if err != nil {
		t.Fatalf("headgate console user: %v", err)
	}
	if err := os.WriteFile(users, append([]byte("users:\n"), entry...), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	cmd = exec.Command(i.binary, "console", "serve", "--users-file", users, "--listen", address, "--admin-listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "NATS_URL="+i.nats)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	for end := time.Now().Add(deadline); ; {
		r, err := http.Get("http://" + address + "/")
		if err == nil {
			r.Body.Close()
			return "http://" + address
		}
		if time.Now().After(end) {
			t.Fatalf("headgate console does not answer: %v", err)
		}
	}
}

// A console whose NATS server is away shows the last values, greyed, with their age.
func TestAway(t *testing.T) {
	i := start(t)
	nats := i
	i.console = i.serve(t, "anna", "a password of anna's")
	b := open(t, i, "401", "502")
	b.goTo("/")
	b.everywhere(func(suffix string) { b.screenshot("TestAway-log-in-" + suffix) })
	b.do("log in", chromedp.SendKeys(`#name`, "anna"), chromedp.SendKeys(`#password`, "a password of anna's"))
	b.click(`form button`, `document.getElementById('live') && document.getElementById('live').textContent === 'live'`)
	b.wait(`document.querySelector('[data-live=workers]').textContent.includes('running')`)
	nats.stop()
	b.wait(`document.querySelector('.stale') !== null && document.getElementById('live').textContent === 'old values'`)
	b.everywhere(func(suffix string) { b.screenshot("TestAway-path-" + suffix) })
	b.goTo("/events")
	if !evaluate[bool](b, `document.querySelector('main h1') !== null && document.querySelector('main').textContent.includes('not connected to NATS')`) {
		b.t.Errorf("the events without NATS: %s", evaluate[string](b, `document.querySelector('main').textContent`))
	}
	b.everywhere(func(suffix string) { b.screenshot("TestAway-events-" + suffix) })
}
