package console

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/stream"
)

//go:embed templates/*.html
var templates embed.FS

// A page is one of templates/*.html with the layout around it.
type page struct{ *template.Template }

// navigation are the pages in the head of each page. A page is in it once it is served.
var navigation = []struct{ Path, Name string }{
	{"/", "Path"},
	{"/events", "Events"},
	{"/workers", "Workers"},
	{"/dead", "Dead letters"},
	{"/quarantine", "Quarantine"},
	{"/refused", "Refused"},
	{"/jobs", "Actions"},
	{"/connections", "Connections"},
	{"/writes", "Writes"},
	{"/reads", "Reads"},
	{"/plans", "Plans"},
	{"/missing", "Missing"},
	{"/doctor", "Doctor"},
	{"/operator", "Operator"},
	{"/audit", "Audit"},
}

// A frame is what the layout shows; Data is the page's own.
type frame struct {
	Source  stream.Source
	User    User
	Version string
	Now     time.Time
	At      string // path of the page in the navigation
	Data    any
}

// Navigation returns the pages of the head.
func (frame) Navigation() []struct{ Path, Name string } { return navigation }

// Here reports whether the page or one below it is shown.
func (f frame) Here(p string) bool {
	return f.At == p || p != "/" && strings.HasPrefix(f.At, p+"/")
}

// A problem is an error as a page shows it: what is wrong and what to do about it.
type problem struct {
	Status            int
	Title, Text, Cure string
}

// readPages reads every template with the layout and the parts. The name of a page is that of its file.
func readPages() (map[string]page, error) {
	base, err := template.New("layout").Funcs(functions).ParseFS(templates, "templates/layout.html", "templates/parts.html", "templates/actions.html")
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(templates, "templates/*.html")
	if err != nil {
		return nil, err
	}
	pages := map[string]page{}
	for _, name := range names {
		t, err := base.Clone()
		if err != nil {
			return nil, err
		}
		if t, err = t.ParseFS(templates, name); err != nil {
			return nil, err
		}
		pages[strings.TrimSuffix(path.Base(name), ".html")] = page{t}
	}
	return pages, nil
}

// render answers with a page. Nothing is written before the page is complete, so that an error of a template is a page too.
func (c *Console) render(w http.ResponseWriter, r *http.Request, name string, data any) {
	c.renderStatus(w, r, http.StatusOK, name, data)
}

func (c *Console) renderStatus(w http.ResponseWriter, r *http.Request, status int, name string, data any) {
	f := frame{Source: c.Source, User: userOf(r), Version: c.Version, Now: c.Now(), At: r.URL.Path, Data: data}
	var out bytes.Buffer
	if err := c.pages[name].ExecuteTemplate(&out, "layout", f); err != nil {
		c.Log.Error("console: page", zap.String("page", name), zap.Error(err))
		http.Error(w, fmt.Sprintf("the page %s could not be made: the log says why", name), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // the client may be gone
}

// fail answers with a page that says what is wrong.
func (c *Console) fail(w http.ResponseWriter, r *http.Request, p problem) {
	c.renderStatus(w, r, p.Status, "problem", p)
}
