// Package relay is the worker that forwards stored events to HTTP endpoints, signed the Standard Webhooks way. Each endpoint is a
// route of a file, and each route is a worker of its own, relay-<route>: it has its own consumers, claims, rate, breaker and dead
// letters, so that no route delays another. An event is posted at least once, with its own webhook-id each time.
package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/watchfile"
	"github.com/headgate/headgate/workers"
)

// Settings are the settings of every worker, and the route that the process runs.
type Settings struct {
	workers.Settings `embed:""`

	Routes string `name:"routes" required:"" placeholder:"FILE" help:"YAML file of the routes (docs/relay.md)."`
	Route  string `name:"route" required:"" placeholder:"NAME" help:"Name of the route in the file that this process runs. Its worker is relay-NAME."`
}

// Validate returns an error that names the first setting with a value that cannot be used. It reads the file of routes.
func (s *Settings) Validate() error {
	if err := s.Settings.Validate(); err != nil {
		return err
	}
	_, err := s.route()
	return err
}

// route returns the route with what the flags override.
func (s *Settings) route() (Route, error) {
	routes, err := ReadRoutes(s.Routes)
	if err != nil {
		return Route{}, fmt.Errorf("--routes: %w", err)
	}
	var names []string
	for _, r := range routes {
		if r.Name == s.Route {
			if s.Concurrency > 0 {
				r.Concurrency = s.Concurrency
			}
			if s.Timeout > 0 {
				r.Timeout = duration(s.Timeout)
			}
			return r, r.validate()
		}
		names = append(names, r.Name)
	}
	return Route{}, fmt.Errorf("--route %s is not in %s, which has %s", s.Route, s.Routes, strings.Join(names, ", "))
}

// Run forwards the events of one route until ctx ends. With --spec it needs neither the files of the route nor a server.
func Run(ctx context.Context, s *Settings, p *process.Process) error {
	route, err := s.route()
	if err != nil {
		return process.Misconfigured(err)
	}
	settings := s.Settings
	settings.Concurrency, settings.Timeout = 0, 0 // the route has them
	if settings.Prints() {
		return workers.Run(ctx, settings, p, route.worker(nil), nil)
	}
	files := newFiles(route)
	if err := files.read(); err != nil {
		return process.Misconfigured(err)
	}
	send := newSender(route, files, newMetrics(p.Metrics, route.WorkerName(), files), p.Version)
	defer send.close()
	var watch sync.WaitGroup
	defer watch.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch.Go(func() { files.watch(ctx, p.Log) })
	p.Health.Add("relay files", func(context.Context) error { return process.Warning(errors.Join(files.current().problems...)) })
	p.Log.Info("route", zap.String("route", route.Name), zap.String("host", route.URL.Host))
	worker := route.worker(send)
	return workers.Run(ctx, settings, p, worker, func(context.Context, workers.Parts) (workers.Worker, error) { return worker, nil })
}

// worker returns the worker of a route. A nil sender is enough for its spec.
func (r Route) worker(send *sender) workers.Worker {
	w := workers.Worker{Name: r.WorkerName(), Concurrency: r.Concurrency, Timeout: r.attemptTimeout()}
	for _, t := range r.Types {
		w.Handlers = append(w.Handlers, workers.Handle(codat.Name[companyTags](t), func(ctx context.Context, e codat.Event[companyTags]) error {
			if !r.chooses(e) {
				return workers.ErrSkip
			}
			return send.send(ctx, message{id: e.WebhookID, contentType: e.ContentType, body: e.Body})
		}))
	}
	return w
}

// attemptTimeout is the time of a request, and of the waits before it: while the endpoint wants no requests, and for the turns of
// all that may wait for the rate.
func (r Route) attemptTimeout() time.Duration {
	wait := maxHold + 5*time.Second
	if r.Rate > 0 {
		wait += time.Duration(float64(2*r.Concurrency) / r.Rate * float64(time.Second))
	}
	return time.Duration(r.Timeout) + wait
}

// chooses reports whether the route takes an event of its types.
func (r Route) chooses(e codat.Event[companyTags]) bool {
	if len(r.Companies) > 0 && !slices.ContainsFunc(r.Companies, func(id string) bool { return strings.EqualFold(id, e.Company) }) {
		return false
	}
	if len(r.CompanyTags) == 0 {
		return true
	}
	return slices.ContainsFunc(r.CompanyTags, func(t tag) bool {
		key, value, _ := strings.Cut(string(t), ":")
		have, ok := e.Payload[key]
		return ok && have == value
	})
}

// companyTags are the tags of an event's company. Codat has them in referenceCompany, and in events about a company itself at
// the top of the payload. An event without them, or with others than Codat documents, has none: it is forwarded all the same where
// no tags are asked for.
type companyTags map[string]string

// UnmarshalJSON reads the tags of a payload. It returns no error.
func (t *companyTags) UnmarshalJSON(payload []byte) error {
	type tagged struct {
		Tags map[string]string `json:"tags"`
	}
	var p struct {
		tagged
		ReferenceCompany tagged `json:"referenceCompany"`
	}
	_ = json.Unmarshal(payload, &p) // what could be read counts
	*t = p.ReferenceCompany.Tags
	if *t == nil {
		*t = p.Tags
	}
	return nil
}

// watch reads the files of the route again when they change, until ctx ends. It logs each change and each new problem.
func (f *files) watch(ctx context.Context, log *zap.Logger) {
	last, keys := "", f.current().fingerprints()
	watchfile.Watch(ctx, f.names(), watchfile.PollInterval, log, func() {
		if err := f.read(); err != nil {
			if err.Error() != last {
				log.Error("a file of the route cannot be used: its previous content stays in use", zap.Error(err))
			}
			last = err.Error()
			return
		}
		last = ""
		if now := f.current().fingerprints(); !slices.Equal(now, keys) {
			keys = now
			log.Info("secrets reloaded", zap.Strings("keys", keys))
		}
	})
}
