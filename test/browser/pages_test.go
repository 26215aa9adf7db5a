//go:build browser

package browser

import (
	"path/filepath"
	"strings"
	"testing"
)

// pages are the pages that need no id.
var pages = []string{
	"/", "/events", "/companies/c0ffee00-0000-4000-8000-00000000000a", "/workers", "/workers/writes", "/dead", "/quarantine", "/refused", "/connections", "/writes", "/reads", "/plans",
	"/missing", "/doctor", "/operator", "/audit",
}

// checks are what must hold of every page; each is true when it holds.
var checks = map[string]string{
	"no horizontal scrolling of the page":     `document.documentElement.scrollWidth <= innerWidth`,
	"one h1":                                  `document.querySelectorAll('h1').length === 1`,
	"one main, one header, named navigations": `['main', 'header'].every(n => document.querySelectorAll(n).length === 1) && [...document.querySelectorAll('nav')].every(n => n.ariaLabel)`,
	"every field has a label":                 `[...document.querySelectorAll('input:not([type=hidden]), select, textarea')].every(f => f.labels.length || f.ariaLabel)`,
	"no id twice":                             `new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size === document.querySelectorAll('[id]').length`,
	"links and buttons have a name":           `[...document.querySelectorAll('a, button')].every(e => (e.textContent.trim() || e.ariaLabel))`,
	"times are in the reader's zone":          `[...document.querySelectorAll('time')].every(t => !t.textContent.includes('UTC') && t.title.includes('UTC'))`,
}

// contrast returns the texts of a page whose contrast to their background is below 4.5, or 3 for large ones.
const contrast = `(() => {
  const rgb = c => { const ctx = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d'); ctx.fillStyle = c; ctx.fillRect(0, 0, 1, 1); return [...ctx.getImageData(0, 0, 1, 1).data]; };
  const lum = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
  const back = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255]; };
  const low = new Set();
  for (const e of document.querySelectorAll('body *')) {
    if (e.closest('svg, .stale, [hidden], .skip, dialog') || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const s = getComputedStyle(e), a = lum(rgb(s.color).slice(0, 3)), b = lum(back(e).slice(0, 3));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < (parseFloat(s.fontSize) >= 18.6 ? 3 : 4.5)) low.add(e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 30) + ' ' + ratio.toFixed(2));
  }
  return [...low].join('; ');
})()`

func name(path string) string {
	if path == "/" {
		return "path"
	}
	return strings.NewReplacer("/", "-", "?", "-", "=", "-", "&", "-").Replace(strings.Trim(path, "/"))
}

// check checks one page in both widths and schemes, and keeps its pictures.
func (b *tab) check(path string) {
	b.t.Helper()
	b.goTo(path)
	b.everywhere(func(suffix string) {
		for what, expression := range checks {
			if !evaluate[bool](b, expression) {
				b.t.Errorf("%s at %s: %s", path, suffix, what)
			}
		}
		if low := evaluate[string](b, contrast); low != "" {
			b.t.Errorf("%s at %s: low contrast: %s", path, suffix, low)
		}
		b.screenshot(b.t.Name() + "-" + name(path) + "-" + suffix)
	})
}

func TestPages_Empty(t *testing.T) {
	i := start(t, "--no-examples")
	b := open(t, i)
	for _, path := range pages {
		b.check(path)
	}
}

// busy sends events until there are some of several types.
func (i installation) busy(t *testing.T) {
	t.Helper()
	for range 8 {
		for _, typ := range []string{"connection.connected", "read.completed", "invoices.write.successful", "directCosts.write.unsuccessful", "suppliers.write.successful"} {
			i.send(t, typ)
		}
	}
	i.send(t, "connection.connected", "--set", "payload=5")
	i.send(t, "connection.connected", "--set", "eventType=Odd..Type")
	i.headgate(t, "plans", "submit", filepath.Join("..", "..", "docs", "plan.json"))
}

func TestPages_Busy(t *testing.T) {
	i := start(t)
	i.busy(t)
	b := open(t, i)
	b.goTo("/events")
	b.wait(`document.querySelectorAll('tbody tr').length > 20`)
	b.goUntil("/dead", `document.querySelector('td a[href="/dead/1"]') !== null`)
	b.goTo("/quarantine")
	quarantined := evaluate[string](b, `document.querySelector('td a[href^="/quarantine/"]').getAttribute('href')`)
	for _, path := range append(pages, "/events/3", "/dead/1", quarantined, "/workers/writes", "/plans/expense-4711") {
		b.check(path)
	}
}
