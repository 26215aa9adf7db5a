package console

import "net/http"

// servePath shows the path of an event.
func (c *Console) servePath(w http.ResponseWriter, r *http.Request) {
	c.render(w, r, "path", nil)
}
