package console

import (
	"context"
	"errors"
	"net/http"
	"path"
	"time"

	"github.com/klauspost/compress/gzhttp"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/doctor"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// Options say what a console shows and who may see it. JS, Source, Access and Log are required.
type Options struct {
	// JS is the connection by which everything is read. It stays the caller's.
	JS     jetstream.JetStream
	Source stream.Source
	// Access decides who may see a page, and with which rights.
	Access Access
	Log    *zap.Logger
	// Version is that of the program, for the foot of each page.
	Version string
	// Monitors are monitoring addresses of NATS servers, such as http://nats-1:8222; without them, no page says whether a server
	// writes to its disk before it acknowledges.
	Monitors []string
	// Operator carries out actions and keeps their record. Without it the console acts on nothing, and shows no body.
	Operator *operator.Operator
	// Processes returns what the ingresses and workers export as metrics; nil when no address of one is known. Then no page says what
	// the ingresses accept and refuse.
	Processes func(context.Context) []Process
	// Keys returns the signing secrets with which the signature over a stored event is verified again; nil without any.
	Keys func() []signature.Key
	// Endpoints returns the endpoints at Codat; nil without an API key.
	Endpoints func(context.Context) ([]api.Webhook, error)
	// Examine makes the checks of headgate doctor; nil when the console makes none. It is not called twice at the same time.
	Examine func(context.Context) (*doctor.Report, error)
	// Now is the time; time.Now if nil.
	Now func() time.Time
}

// A Console serves the pages of one source. Run keeps its live values.
type Console struct {
	Options

	pages     map[string]page
	handler   http.Handler
	hub       *hub
	jobs      *jobs
	previews  previews
	endpoints endpoints
	doctor    task[*doctor.Report]
	audit     task[*audited]
	proving   chan struct{} // has the one proof that is made
	stopped   chan struct{} // closed when Run ends
}

// contentPolicy allows what the console serves itself, and nothing else: no inline script or style, no frame around it, and no text
// that becomes markup but through the policy of console.js.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; " +
	"frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types headgate"

// New returns a console. Its error names an option that is missing.
func New(o Options) (*Console, error) {
	switch {
	case o.JS == nil:
		return nil, errors.New("console: no connection to NATS")
	case o.Access == nil:
		return nil, errors.New("console: nothing says who may see it")
	case o.Log == nil:
		return nil, errors.New("console: no log")
	}
	if err := o.Source.Validate(); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	pages, err := readPages()
	if err != nil {
		return nil, err
	}
	c := &Console{Options: o, pages: pages, proving: make(chan struct{}, 1), stopped: make(chan struct{})}
	c.hub, c.jobs = newHub(c), newJobs()
	compress, err := gzhttp.NewWrapper(gzhttp.MinSize(1<<10), gzhttp.RandomJitter(32, 0, false))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /static/", staticFiles())
	mux.HandleFunc("GET /live", c.serveLive) // compression would hold events back
	mux.Handle("/", compress(c.routes()))
	c.handler = secure(http.NewCrossOriginProtection().Handler(o.Access.Protect(mux)))
	return c, nil
}

// ServeHTTP serves the pages. Every answer has the headers that keep a browser from running or framing what is not the console's.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.handler.ServeHTTP(w, r) }

// Run keeps the live values until ctx ends, and then ends what is sent to viewers, and the actions, which record what they did. Call it
// once.
func (c *Console) Run(ctx context.Context) {
	defer close(c.stopped)
	c.hub.run(ctx)
	c.jobs.stop()
}

// routes are the pages that Access protects.
func (c *Console) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", c.servePath)
	mux.HandleFunc("GET /events", c.serveEvents)
	mux.HandleFunc("GET /events/{sequence}", c.serveEvent)
	mux.HandleFunc("POST /events/{sequence}/body", c.serveBody)
	mux.HandleFunc("POST /events/{sequence}/proof", c.serveProof)
	mux.HandleFunc("GET /companies/{id}", c.serveCompany)
	mux.HandleFunc("GET /dead", c.serveDead)
	mux.HandleFunc("GET /dead/{number}", c.serveLetter)
	mux.HandleFunc("POST /dead/{number}/body", c.serveLetterBody)
	mux.HandleFunc("GET /quarantine", c.serveQuarantine)
	mux.HandleFunc("GET /quarantine/{number}", c.serveQuarantined)
	mux.HandleFunc("POST /quarantine/{number}/body", c.serveQuarantinedBody)
	mux.HandleFunc("GET /refused", c.serveRefused)
	mux.HandleFunc("GET /workers", c.serveWorkers)
	mux.HandleFunc("GET /workers/{name}", c.serveWorker)
	mux.HandleFunc("POST /actions/preview", c.servePreview)
	mux.HandleFunc("POST /actions/confirm", c.serveConfirm)
	mux.HandleFunc("GET /jobs", c.serveJobs)
	mux.HandleFunc("GET /jobs/{id}", c.serveJob)
	mux.HandleFunc("POST /jobs/{id}/cancel", c.cancelJob)
	mux.HandleFunc("GET /connections", c.serveConnections)
	mux.HandleFunc("GET /connections/{company}/{connection}", c.serveConnection)
	mux.HandleFunc("GET /writes", c.serveWrites)
	mux.HandleFunc("GET /writes/{key}", c.serveWrite)
	mux.HandleFunc("POST /writes/{key}/reason", c.serveReason)
	mux.HandleFunc("GET /reads", c.serveReads)
	mux.HandleFunc("GET /reads/{company}/{connection}/{type}", c.serveRead)
	mux.HandleFunc("GET /plans", c.servePlans)
	mux.HandleFunc("GET /plans/{id}", c.servePlan)
	mux.HandleFunc("GET /missing", c.serveMissing)
	mux.HandleFunc("GET /doctor", c.serveDoctor)
	mux.HandleFunc("POST /doctor", c.runDoctor)
	mux.HandleFunc("GET /operator", c.serveOperator)
	mux.HandleFunc("GET /audit", c.serveAudit)
	mux.HandleFunc("POST /audit", c.runAudit)
	for _, address := range []string{
		"/events/{sequence}/body", "/events/{sequence}/proof", "/dead/{number}/body", "/quarantine/{number}/body", "/writes/{key}/reason", "/jobs/{id}/cancel",
	} {
		mux.HandleFunc("GET "+address, leave)
	}
	mux.HandleFunc("/", c.notFound)
	return mux
}

// leave leads from the address of a form to the page that has the form: a log-in that the form asked for ends there.
func leave(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, path.Dir(r.URL.EscapedPath()), http.StatusSeeOther)
}

// secure sets the headers that every answer has.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		// Browsers send Origin: null with a form where no referrer is sent at all.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

func (c *Console) notFound(w http.ResponseWriter, r *http.Request) {
	c.fail(w, r, problem{Status: http.StatusNotFound, Title: "No such page", Text: "Nothing is at this address.", Cure: "The pages are listed above."})
}
