package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/schema"
)

// typesCmd lists the catalog of event types, what an ingress has seen that is not in it, or what an OpenAPI file has that it
// has not. It needs no NATS.
type typesCmd struct {
	Drift     []string      `name:"drift" env:"-" sep:"none" placeholder:"URL" xor:"what" help:"List what an ingress has counted since its start that is not in the catalog: types, members, and members with an unknown value. The URL is that of its metrics, such as http://127.0.0.1:9090/metrics. Repeat it for several."`
	Compare   []string      `name:"compare" env:"-" sep:"none" placeholder:"FILE" xor:"what" help:"List the differences between the catalog and an OpenAPI file of Codat's (YAML or JSON), and exit 1 when there are some. Repeat it for several files, which together document all types."`
	Type      codat.Pattern `name:"type" env:"-" help:"Only this event type, or those of a pattern: * is one token, > the rest."`
	listFlags `embed:""`
}

// Validate returns an error for a URL that cannot be one of metrics.
func (c *typesCmd) Validate() error {
	for _, address := range c.Drift {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("--drift: it must be the URL of an ingress's metrics, such as http://127.0.0.1:9090/metrics")
		}
	}
	return validateType(c.Type)
}

// Run lists.
func (c *typesCmd) Run(ctx context.Context, t *terminal) error {
	switch {
	case len(c.Drift) > 0:
		return c.listDrift(ctx, t)
	case len(c.Compare) > 0:
		return c.compare(t)
	}
	return catalogListing.print(t, c.listFlags, func(each func(catalogType) error) error {
		for _, typ := range codat.Catalog() {
			if c.Type != "" && !c.Type.Match(typ.Name) {
				continue
			}
			if err := each(newCatalogType(typ)); err != nil {
				return err
			}
		}
		return nil
	})
}

// A catalogType is a line of headgate types.
type catalogType struct {
	Name    string `json:"name"`
	Group   string `json:"group"`
	Status  string `json:"status"`  // current, legacy, or uncertain: documented without a schema
	Payload string `json:"payload"` // the Go type in pkg/codat
	Format  string `json:"format"`  // of the body: envelope or rule
}

func newCatalogType(t codat.Type) catalogType {
	c := catalogType{Name: t.Name, Group: typeGroup(t), Status: "current", Format: "envelope"}
	switch {
	case t.Legacy:
		c.Status = "legacy"
	case t.Uncertain:
		c.Status = "uncertain"
	}
	if !t.InEnvelope() {
		c.Format = "rule"
	}
	name, parameter, generic := strings.Cut(t.Payload().String(), "[")
	c.Payload = name
	if generic { // Rule[github.com/headgate/headgate/pkg/codat.NoData]
		c.Payload += "[" + parameter[strings.LastIndex(parameter, "/")+1:]
	}
	return c
}

// typeGroup is what an event type is about.
func typeGroup(t codat.Type) string {
	if !t.InEnvelope() {
		return "rules"
	}
	for _, group := range []string{"write", "read"} {
		if strings.Contains("."+t.Name+".", "."+group+".") {
			return group
		}
	}
	group, _, _ := strings.Cut(t.Name, ".")
	return group
}

var catalogListing = listing[catalogType]{
	noun: "type",
	id:   func(c catalogType) string { return c.Name },
	columns: []column[catalogType]{
		{name: "TYPE", cell: func(c catalogType) cell { return textCell(c.Name) }},
		{name: "GROUP", cell: func(c catalogType) cell { return textCell(c.Group) }},
		{name: "STATUS", cell: func(c catalogType) cell { return textCell(c.Status) }},
		{name: "PAYLOAD", cell: func(c catalogType) cell { return textCell(c.Payload) }},
		{name: "FORMAT", wide: true, cell: func(c catalogType) cell { return textCell(c.Format) }},
	},
}

// A driftCount is how often an ingress has seen something that is not in the catalog.
type driftCount struct {
	Source string `json:"source"`
	Kind   string `json:"kind"` // type, field or value
	Type   string `json:"type"`
	Field  string `json:"field,omitempty"`
	Count  int64  `json:"count"`
}

// driftMetrics are the metrics of the ingress that count drift, by kind.
var driftMetrics = map[string]string{
	"headgate_ingress_unknown_types_total":  "type",
	"headgate_ingress_unknown_fields_total": "field",
	"headgate_ingress_unknown_values_total": "value",
}

func (c *typesCmd) listDrift(ctx context.Context, t *terminal) error {
	counts := map[driftCount]int64{}
	for _, address := range c.Drift {
		if err := addDrift(ctx, address, counts); err != nil {
			return fmt.Errorf("--drift: %w", err)
		}
	}
	var all []driftCount
	for d, n := range counts {
		d.Count = n
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b driftCount) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Kind, b.Kind))
	})
	return driftListing.print(t, c.listFlags, func(each func(driftCount) error) error {
		for _, d := range all {
			if c.Type != "" && !c.Type.Match(d.Type) {
				continue
			}
			if err := each(d); err != nil {
				return err
			}
		}
		return nil
	})
}

var driftListing = listing[driftCount]{
	noun: "unknown name",
	id: func(d driftCount) string {
		if d.Field != "" {
			return d.Field
		}
		return d.Type
	},
	columns: []column[driftCount]{
		{name: "SOURCE", cell: func(d driftCount) cell { return textCell(d.Source) }},
		{name: "KIND", cell: func(d driftCount) cell { return textCell(d.Kind) }},
		{name: "COUNT", cell: func(d driftCount) cell { return numberCell(d.Count) }},
		{name: "TYPE", cell: func(d driftCount) cell { return textCell(d.Type) }},
		{name: "FIELD", cell: func(d driftCount) cell { return textCell(d.Field) }},
	},
}

const (
	scrapeTimeout = 10 * time.Second
	maxScrape     = 32 << 20 // bytes of metrics, and of an OpenAPI file
)

// scrape reads the metrics of a process. The error has no password of the address.
func scrape(ctx context.Context, address string) (map[string]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers with status %d: give the URL of %s", req.URL.Redacted(), resp.StatusCode, metricsURL)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(io.LimitReader(resp.Body, maxScrape))
	if err != nil {
		return nil, fmt.Errorf("%s does not answer with metrics: give the URL of %s", req.URL.Redacted(), metricsURL)
	}
	return families, nil
}

const metricsURL = "an ingress's metrics, /metrics of its --admin-listen"

// addDrift adds what an ingress has counted.
func addDrift(ctx context.Context, address string, counts map[driftCount]int64) error {
	families, err := scrape(ctx, address)
	if err != nil {
		return err
	}
	if families["headgate_ingress_requests_total"] == nil {
		u, _ := url.Parse(address) // it was parsed before
		return fmt.Errorf("%s has no metrics of an ingress: give the URL of one, /metrics of its --admin-listen", u.Redacted())
	}
	for name, kind := range driftMetrics {
		for _, m := range families[name].GetMetric() {
			d := driftCount{Kind: kind}
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "source":
					d.Source = l.GetValue()
				case "type":
					d.Type = l.GetValue()
				case "field":
					d.Field = l.GetValue()
				}
			}
			counts[d] += int64(m.GetCounter().GetValue())
		}
	}
	return nil
}

// errDiffers makes the exit code 1.
var errDiffers = errors.New("the catalog and the files differ")

func (c *typesCmd) compare(t *terminal) error {
	var files []*schema.OpenAPI
	for _, name := range c.Compare {
		f, err := readOpenAPI(name)
		if err != nil {
			return fmt.Errorf("--compare %s: %w", printable(name), err)
		}
		files = append(files, f)
	}
	all, err := schema.Compare(files...)
	if err != nil {
		return fmt.Errorf("--compare: %w", err)
	}
	err = differenceListing.print(t, c.listFlags, func(each func(schema.Difference) error) error {
		for _, d := range all {
			if err := each(d); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && len(all) > 0 {
		return errDiffers
	}
	return err
}

func readOpenAPI(name string) (*schema.OpenAPI, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, errors.Unwrap(err) // without the name
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxScrape+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxScrape {
		return nil, fmt.Errorf("it has more than %d bytes", maxScrape)
	}
	return schema.ParseOpenAPI(text)
}

var differenceListing = listing[schema.Difference]{
	noun: "difference",
	id: func(d schema.Difference) string {
		if d.Field != "" {
			return d.Field
		}
		return strings.Join(d.Types, " ")
	},
	columns: []column[schema.Difference]{
		{name: "ONLY IN", cell: func(d schema.Difference) cell { return textCell(d.In) }},
		{name: "KIND", cell: func(d schema.Difference) cell {
			switch {
			case d.Value != "":
				return textCell("value")
			case d.Field != "":
				return textCell("field")
			}
			return textCell("type")
		}},
		{name: "FIELD", cell: func(d schema.Difference) cell { return textCell(d.Field) }},
		{name: "VALUE", cell: func(d schema.Difference) cell { return textCell(d.Value) }},
		{name: "TYPES", cell: func(d schema.Difference) cell { return textCell(strings.Join(d.Types, ", ")) }},
	},
}
