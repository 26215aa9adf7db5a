package console

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"
)

// A part is what is shown live: markup that was rendered once for all viewers.
type part struct {
	markup  []byte
	version uint64
}

// A viewer is a browser that is shown parts.
type viewer struct {
	wake  chan struct{} // it has room for one: a viewer that lags finds the newest
	parts []string
}

// liveParts are the parts that a viewer can ask for, by the names of their templates, and what they show.
var liveParts = map[string]func(*Console, facts) any{
	"stations": func(c *Console, f facts) any { return c.pathOf(f) },
	"findings": func(c *Console, f facts) any { return c.pathOf(f) },
	"workers":  func(c *Console, f facts) any { return c.pathOf(f) },
	"newest":   func(_ *Console, f facts) any { return f.last },
}

const (
	// keepAlive is the longest time without a word to a viewer: proxies end connections on which nothing comes.
	keepAlive = 20 * time.Second
	// sendTimeout is the time in which a viewer must take what it is sent.
	sendTimeout = 10 * time.Second
)

// show renders the parts that have viewers, and wakes the viewers when one has changed.
func (h *hub) show() {
	h.mu.Lock()
	wanted := map[string]bool{}
	for v := range h.viewers {
		for _, name := range v.parts {
			wanted[name] = true
		}
	}
	now := h.now
	h.mu.Unlock()
	changed := false
	for name := range wanted {
		markup, err := h.c.renderPart(name, liveParts[name](h.c, now))
		if err != nil {
			h.c.Log.Error("console: part", zap.String("part", name), zap.Error(err))
			continue
		}
		h.mu.Lock()
		if before := h.parts[name]; !bytes.Equal(before.markup, markup) {
			h.parts[name] = part{markup, before.version + 1}
			changed = true
		}
		h.mu.Unlock()
	}
	if !changed {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for v := range h.viewers {
		select {
		case v.wake <- struct{}{}:
		default: // it has not taken the last one yet, and will find this one then
		}
	}
}

// renderPart renders one part.
func (c *Console) renderPart(name string, data any) ([]byte, error) {
	var out bytes.Buffer
	err := c.pages["path"].ExecuteTemplate(&out, "part-"+name, data)
	return out.Bytes(), err
}

// join adds a viewer until leave is called.
func (h *hub) join(parts []string) (v *viewer, leave func()) {
	v = &viewer{wake: make(chan struct{}, 1), parts: parts}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.viewers[v] = true
	return v, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.viewers, v)
	}
}

// news returns the parts of a viewer that have changed since it was told the versions in told, which it updates.
func (h *hub) news(v *viewer, told map[string]uint64) map[string][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	fresh := map[string][]byte{}
	for _, name := range v.parts {
		if p := h.parts[name]; p.version != told[name] {
			fresh[name], told[name] = p.markup, p.version
		}
	}
	return fresh
}

// serveLive sends parts as they change, as server-sent events: the name of an event is that of the part.
func (c *Console) serveLive(w http.ResponseWriter, r *http.Request) {
	var parts []string
	for _, name := range r.URL.Query()["part"] {
		if _, ok := liveParts[name]; ok && !slices.Contains(parts, name) {
			parts = append(parts, name)
		}
	}
	if len(parts) == 0 {
		http.Error(w, "name a part to watch: /live?part=stations", http.StatusBadRequest)
		return
	}
	control := http.NewResponseController(w)
	// The server's time limits are for pages.
	if err := errors.Join(control.SetWriteDeadline(time.Time{}), control.SetReadDeadline(time.Time{})); err != nil {
		http.Error(w, "this connection cannot be kept open", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	if r.Method == http.MethodHead { // its connection takes the client's next request
		return
	}
	v, leave := c.hub.join(parts)
	defer leave()
	told := map[string]uint64{}
	idle := time.NewTicker(keepAlive)
	defer idle.Stop()
	out := []byte("retry: 2000\n\n")
	for {
		_ = control.SetWriteDeadline(time.Now().Add(sendTimeout))
		if _, err := w.Write(out); err != nil {
			return
		}
		if err := control.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-c.stopped:
			return
		case <-v.wake:
			out = out[:0]
			for name, markup := range c.hub.news(v, told) {
				out = appendEvent(out, name, markup)
			}
		case <-idle.C:
			out = append(out[:0], ": \n\n"...)
		}
	}
}

// appendEvent appends a server-sent event: a line of data for each line of the markup.
func appendEvent(out []byte, name string, markup []byte) []byte {
	out = append(out, "event: "+name+"\n"...)
	for line := range bytes.Lines(markup) {
		out = append(out, "data: "...)
		out = append(out, bytes.TrimRight(line, "\r\n")...)
		out = append(out, '\n')
	}
	return append(out, '\n')
}

// ago is how long ago a time was, at now.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "–"
	}
	if d := now.Sub(t); d >= time.Second {
		return fmt.Sprintf("%s ago", span(d))
	}
	return "now"
}
