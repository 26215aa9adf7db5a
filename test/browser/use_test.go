//go:build browser

package browser

import (
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// A console is used with a mouse or by its keys alone, is told of what is new, and works without scripts.
func TestUse(t *testing.T) {
	i := start(t)
	i.send(t, "invoices.write.successful")
	b := open(t, i)
	b.look(1440, "light")
	b.seesNewEvents(i)
	b.goesByKeys()
	b.readsWithoutScript()
}

// seesNewEvents checks that a page tells of events that are stored while it is read, and moves nothing in it.
func (b *tab) seesNewEvents(i installation) {
	b.t.Helper()
	b.goTo("/events")
	b.wait(`document.getElementById('live').textContent === 'live'`)
	if !evaluate[bool](b, `document.querySelector('header').offsetHeight < 60`) {
		b.t.Error("the live state breaks the line of the header: the page below it moves")
	}
	rows := evaluate[int](b, `document.querySelectorAll('tbody tr').length`)
	i.send(b.t, "invoices.write.successful")
	b.wait(`!document.querySelector('[data-live=newest]').hidden`)
	if now := evaluate[int](b, `document.querySelectorAll('tbody tr').length`); now != rows {
		b.t.Errorf("the page has %d rows after an event is stored; want the %d that are read", now, rows)
	}
	b.screenshot("TestUse-events-newer")
	b.do("show newer events", chromedp.Click(`[data-live=newest] a`))
	b.wait(`document.querySelector('tbody tr') && document.querySelector('[data-live=newest]') && document.querySelector('[data-live=newest]').hidden`)
}

// goesByKeys goes from the first page to another by the keys Tab and Enter alone.
func (b *tab) goesByKeys() {
	b.t.Helper()
	b.goTo("/")
	b.do("first tab", chromedp.KeyEvent("\t"))
	if !evaluate[bool](b, `document.activeElement.className === 'skip' && document.activeElement.getBoundingClientRect().left >= 0`) {
		b.t.Error("the first Tab does not show the link that skips to the content")
	}
	for range 20 {
		if evaluate[bool](b, `document.activeElement.getAttribute('href') === '/workers'`) {
			if !evaluate[bool](b, `getComputedStyle(document.activeElement).outlineStyle === 'solid'`) {
				b.t.Error("the link that has the focus is not marked")
			}
			b.do("enter", chromedp.KeyEvent("\r"))
			b.wait(`location.pathname === '/workers'`)
			return
		}
		b.do("tab", chromedp.KeyEvent("\t"))
	}
	b.t.Error("20 times Tab does not reach the page of the workers")
}

// readsWithoutScript opens every page with scripts off. Times are in UTC then, and nothing that needs a script is shown.
func (b *tab) readsWithoutScript() {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		b.t.Fatal(err)
	}
	for _, path := range append(pages, "/events/1") {
		b.goTo(path)
		for what, expression := range map[string]string{
			"it has a heading":         `document.querySelector('main h1').textContent.trim() !== ''`,
			"times are in UTC":         `[...document.querySelectorAll('time')].every(e => e.textContent.includes('UTC'))`,
			"what needs it is hidden":  `[...document.querySelectorAll('#pause, #keys, [data-copy]')].every(e => e.hidden)`,
			"no sideways scroll of it": `document.documentElement.scrollWidth <= innerWidth`,
		} {
			if !evaluate[bool](b, expression) {
				b.t.Errorf("%s without scripts: %s", path, what)
			}
		}
	}
	b.screenshot("TestUse-event-without-script")
}
