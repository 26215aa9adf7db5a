package relay

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/yamlfile"
)

// namePrefix is what the worker of a route has before the name of the route.
const namePrefix = "relay-"

// The limits of a route.
const (
	maxTimeout     = 5 * time.Minute
	maxConcurrency = 256
	minRate        = 0.01 // a request in 100 seconds
	maxRate        = 100_000
	maxKeys        = 10 // signatures in one header: a receiver reads 16
)

// A Route is an endpoint and the events that it gets.
type Route struct {
	// Name names the route and, after relay-, its worker.
	Name string `yaml:"name"`
	// URL is where the events are posted. It has the scheme https, or http for addresses in AllowPrivate.
	URL endpoint `yaml:"url"`
	// Types choose the events; all without.
	Types []pattern `yaml:"types"`
	// Companies are the ids of the companies whose events are sent; all without, also events without a company.
	Companies []string `yaml:"companies"`
	// CompanyTags are key:value. An event is sent when its company has one of them; an event that carries no tags is not.
	CompanyTags []tag `yaml:"company_tags"`
	// SecretFiles have the secrets, whsec_…, that sign. Each signs every request, so that a receiver can change from one to the next.
	SecretFiles []string `yaml:"secret_files"`
	// AuthorizationFile has the value of the header Authorization; no header without.
	AuthorizationFile string `yaml:"authorization_file"`
	// Rate is the number of requests a second of each process; without it there is no limit.
	Rate float64 `yaml:"rate"`
	// Concurrency is the number of requests at once of each process.
	Concurrency int `yaml:"concurrency"`
	// Timeout bounds one request.
	Timeout duration `yaml:"timeout"`
	// AllowPrivate are the ranges of addresses that are not public and may be connected to all the same.
	AllowPrivate []prefix `yaml:"allow_private"`
}

type duration = yamlfile.Duration

// ReadRoutes reads a file of routes and validates it. An error names the line or the route, and the cure; it has no URL, because
// a URL can be a secret.
func ReadRoutes(name string) ([]Route, error) {
	defaults := Route{Concurrency: 8, Timeout: duration(15 * time.Second)}
	routes, err := yamlfile.ReadList(name, yamlfile.List{Noun: "route", Required: "name, url and secret_files"}, defaults)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for i := range routes {
		if len(routes[i].Types) == 0 {
			routes[i].Types = []pattern{">"}
		}
		if err := routes[i].validate(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, other := range routes[:i] {
			if other.Name == routes[i].Name {
				return nil, fmt.Errorf("%s: two routes have the name %s: give each its own", name, other.Name)
			}
		}
	}
	return routes, nil
}

// WorkerName is the name of the route's worker.
func (r Route) WorkerName() string { return namePrefix + r.Name }

// Spec returns what the route's worker needs on NATS.
func (r Route) Spec() stream.WorkerSpec { return r.worker(nil).Spec() }

// validate reports the first invalid key of a route.
func (r Route) validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("route %s: %s", r.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case r.Name == "":
		return fmt.Errorf("a route has no name: give each one name, url and secret_files")
	case stream.ValidateWorker(r.WorkerName()) != nil:
		return fail("name must be a letter and up to %d more of a-z, 0-9 and -, and no - at its end", 31-len(namePrefix)-1)
	case r.URL.URL == nil:
		return fail("no url: give the address of the endpoint, as https://example.com/webhooks")
	case r.URL.Scheme == "http" && len(r.AllowPrivate) == 0:
		return fail("url has the scheme http, which sends events unencrypted: write https, or list the private addresses of the endpoint in allow_private")
	case len(r.SecretFiles) == 0:
		return fail("no secret_files: give the files with the secrets that sign, whsec_…")
	case slices.Contains(r.Companies, ""):
		return fail("companies has an empty id, which would choose the events without a company: give the ids of companies, or remove the key")
	case r.Rate != 0 && !(r.Rate >= minRate && r.Rate <= maxRate):
		return fail("rate must be from %g to %d requests a second (got %g): remove it for no limit", minRate, maxRate, r.Rate)
	case r.Concurrency < 1 || r.Concurrency > maxConcurrency:
		return fail("concurrency must be from 1 to %d (got %d)", maxConcurrency, r.Concurrency)
	case r.Timeout <= 0 || time.Duration(r.Timeout) > maxTimeout:
		return fail("timeout must be greater than 0s and at most %s (got %s)", maxTimeout, r.Timeout)
	}
	return r.validateTypes()
}

// validateTypes reports types of which two choose the same event: the server takes no such filters for one consumer.
func (r Route) validateTypes() error {
	for i, b := range r.Types {
		for _, a := range r.Types[:i] {
			a, b := codat.Pattern(a), codat.Pattern(b)
			switch {
			case a.Covers(b):
				return fmt.Errorf("route %s: types %s has all events of %s: remove %[3]s", r.Name, a, b)
			case b.Covers(a):
				return fmt.Errorf("route %s: types %s has all events of %s: remove %[3]s", r.Name, b, a)
			case a.Overlaps(b):
				return fmt.Errorf("route %s: types %s and %s can both choose an event, which no consumer allows: write out the types of one of the two, or make a second route", r.Name, a, b)
			}
		}
	}
	return nil
}

// An endpoint is a URL in a file.
type endpoint struct{ *url.URL }

// UnmarshalYAML parses the URL of an endpoint. Its error has a place in the file, and not the URL.
func (e *endpoint) UnmarshalYAML(node ast.Node) error {
	u, err := url.Parse(node.GetToken().Value)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return yamlfile.Invalid(node, "it is not the URL of an endpoint: write it like https://example.com/webhooks")
	case u.User != nil:
		return yamlfile.Invalid(node, "it has a user or a password in it: put them as Basic user:password into a file, and name that in authorization_file")
	case u.Fragment != "":
		return yamlfile.Invalid(node, "it has a fragment (#), which no server gets: remove it")
	}
	e.URL = u
	return nil
}

// A pattern is a codat.Pattern in a file.
type pattern codat.Pattern

// UnmarshalYAML parses a pattern. Its error has a place in the file.
func (p *pattern) UnmarshalYAML(node ast.Node) error {
	*p = pattern(node.GetToken().Value)
	if err := codat.Pattern(*p).Validate(); err != nil {
		return yamlfile.Invalid(node, err.Error()+`: write it like invoices.write.successful, "*.write.successful" or "connection.>"`)
	}
	return nil
}

// A tag is the tag of a company, key:value.
type tag string

// UnmarshalYAML parses a tag. Its error has a place in the file.
func (t *tag) UnmarshalYAML(node ast.Node) error {
	*t = tag(node.GetToken().Value)
	if key, _, ok := strings.Cut(string(*t), ":"); !ok || key == "" {
		return yamlfile.Invalid(node, "a tag has no key: write it like region:uk")
	}
	return nil
}

// A prefix is a range of addresses in a file.
type prefix netip.Prefix

// UnmarshalYAML parses a range. Its error has a place in the file.
func (p *prefix) UnmarshalYAML(node ast.Node) error {
	read, err := netip.ParsePrefix(node.GetToken().Value)
	switch {
	case err != nil:
		return yamlfile.Invalid(node, "it is not a range of addresses: write it like 10.20.0.0/16 or fd12:3456::/32")
	case read.Bits() == 0:
		return yamlfile.Invalid(node, "a range of all addresses allows every address of your network: name the range of the endpoint")
	case read.Addr().Is4In6():
		return yamlfile.Invalid(node, "an IPv4 address in IPv6 notation: write it as IPv4, like 10.20.0.0/16")
	}
	*p = prefix(read.Masked())
	return nil
}
