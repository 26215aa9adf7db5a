package schema

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/headgate/headgate/pkg/codat"
)

// An OpenAPI is a file that documents webhooks, of OpenAPI 3.0 or 3.1.
type OpenAPI struct {
	root   map[string]any
	bodies map[codat.Pattern]any // the schema of the body of each event type; {name} in a type is a *
}

// The limits keep a file whose schemas refer to each other from taking for ever.
const (
	maxRefs  = 32      // references within each other
	maxNodes = 200_000 // schemas that are looked at for one event type
)

var errTooLarge = errors.New("its schemas refer to each other too often")

// ParseOpenAPI reads a file in YAML or JSON. Event types are the names in webhooks (and x-webhooks); operations in paths and
// schemas in components whose member eventType has a value, an example or examples. An error says what is wrong with the file.
func ParseOpenAPI(text []byte) (*OpenAPI, error) {
	o := &OpenAPI{bodies: map[codat.Pattern]any{}}
	if err := yaml.Unmarshal(text, &o.root); err != nil {
		return nil, errors.New("neither YAML nor JSON: " + strings.SplitN(err.Error(), "\n", 2)[0])
	}
	if version, _ := o.root["openapi"].(string); !strings.HasPrefix(version, "3.") {
		return nil, fmt.Errorf("the member openapi is %q: want a file of OpenAPI 3.0 or 3.1", version)
	}
	for _, webhooks := range []string{"webhooks", "x-webhooks"} {
		for name, item := range object(o.root[webhooks]) {
			if body := o.requestBody(item); body != nil && pattern(name).Validate() == nil {
				o.bodies[pattern(name)] = body
			}
		}
	}
	for _, item := range object(o.root["paths"]) {
		o.addByMember(o.requestBody(item))
	}
	for _, s := range object(object(o.root["components"])["schemas"]) {
		o.addByMember(s)
	}
	if len(o.bodies) == 0 {
		return nil, errors.New("it documents no webhook: want webhooks, or schemas whose eventType has an example")
	}
	return o, nil
}

var braces = regexp.MustCompile(`\{[^}]*\}`)

// pattern returns the event types that a name stands for.
func pattern(name string) codat.Pattern { return codat.Pattern(braces.ReplaceAllString(name, "*")) }

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// requestBody returns the schema of the JSON that a path item posts, and nil without one.
func (o *OpenAPI) requestBody(item any) any {
	post := object(o.follow(object(o.follow(item))["post"]))
	content := object(object(o.follow(post["requestBody"]))["content"])
	return object(content["application/json"])["schema"]
}

// addByMember adds the schema of a body by the event types that it says its member eventType has.
func (o *OpenAPI) addByMember(body any) {
	in := object(object(o.follow(body))["properties"])
	eventType := object(o.follow(in["eventType"]))
	var names []any
	for _, key := range []string{"enum", "examples"} {
		list, _ := eventType[key].([]any)
		names = append(names, list...)
	}
	names = append(names, eventType["const"], eventType["example"])
	for _, name := range names {
		text, ok := name.(string)
		p := pattern(text)
		if !ok || p.Validate() != nil {
			continue
		}
		covered := false
		for have := range o.bodies {
			covered = covered || have.Covers(p)
		}
		if !covered {
			o.bodies[p] = body
		}
	}
}

// follow returns what a reference leads to, and another value as it is. It returns nil for a reference that leads nowhere or
// to itself.
func (o *OpenAPI) follow(v any) any {
	for range maxRefs {
		ref, ok := object(v)["$ref"].(string)
		if !ok {
			return v
		}
		v = o.at(ref)
	}
	return nil
}

// at returns what a reference within the file leads to, and nil for one that leads nowhere.
func (o *OpenAPI) at(ref string) any {
	left := maxRefs
	return o.find(ref, &left)
}

// find is at, with the number of references that are still followed on the way.
func (o *OpenAPI) find(ref string, left *int) any {
	pointer, ok := strings.CutPrefix(ref, "#/")
	if *left--; !ok || *left < 0 {
		return nil
	}
	var v any = o.root
	for name := range strings.SplitSeq(pointer, "/") {
		if unescaped, err := url.PathUnescape(name); err == nil {
			name = unescaped
		}
		name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
		in := object(v)
		if through, isRef := in["$ref"].(string); isRef && in[name] == nil {
			in = object(o.find(through, left))
		}
		v = in[name]
	}
	return v
}

// paths has the members of a body by their paths, with the documented values of each.
type paths map[string]*documented

type documented struct {
	values map[string]bool
	inside bool // members within it are documented
	former bool
}

// add returns what is documented at a path.
func (p paths) add(path string) *documented {
	if p[path] == nil {
		p[path] = &documented{values: map[string]bool{}}
	}
	return p[path]
}

// A reader reads the members of one schema of a file.
type reader struct {
	*OpenAPI
	into  paths
	nodes int
	open  []string // the references that are being read
}

// read adds what a schema says of the value at a path. A reference to a schema that is being read is not followed.
func (r *reader) read(path string, v any) error {
	if r.nodes++; r.nodes > maxNodes {
		return errTooLarge
	}
	s := object(v)
	at := r.into.add(path)
	if ref, ok := s["$ref"].(string); ok && !slices.Contains(r.open, ref) && len(r.open) < maxRefs {
		r.open = append(r.open, ref)
		err := r.read(path, r.at(ref))
		r.open = r.open[:len(r.open)-1]
		if err != nil {
			return err
		}
	}
	values, _ := s["enum"].([]any)
	for _, value := range append(slices.Clone(values), s["const"]) {
		if text, ok := value.(string); ok {
			at.values[text] = true
		}
	}
	for _, key := range []string{"allOf", "anyOf", "oneOf"} {
		parts, _ := s[key].([]any)
		for _, part := range parts {
			if err := r.read(path, part); err != nil {
				return err
			}
		}
	}
	for name, member := range object(s["properties"]) {
		at.inside = true
		if err := r.read(join(path, cleanName(name)), member); err != nil {
			return err
		}
	}
	if items, ok := s["items"]; ok {
		at.inside = true
		return r.read(path+"[]", items)
	}
	return nil
}

// paths adds the members of a shape. A type within itself is not followed.
func (s *Shape) paths(into paths, path string, open []*Shape) {
	at := into.add(path)
	for _, v := range s.Values {
		at.values[v] = true
	}
	if slices.Contains(open, s) {
		return
	}
	open = append(open, s)
	switch s.Kind {
	case Array:
		at.inside = true
		s.Element.paths(into, path+"[]", open)
	case Object:
		for _, m := range s.Members {
			at.inside = true
			m.Shape.paths(into, join(path, m.Name), open)
			into.add(join(path, m.Name)).former = m.Former
		}
	}
}

// A Difference is what either the catalog or the files have.
type Difference struct {
	// In is "catalog" or "file".
	In string `json:"only_in"`
	// Types are event types. Field is the path of a member in their bodies, and "" when it is the types that differ; Value is one
	// of its documented values, and "" when it is the member that differs.
	Types []string `json:"types"`
	Field string   `json:"field,omitempty"`
	Value string   `json:"value,omitempty"`
}

// Compare returns the differences between the catalog and files: event types, members of their bodies and values of
// enumerations that only one side has, sorted. Of the catalog it leaves out legacy and uncertain types and former members. What
// is within a member that only one side has, or that one side leaves open, is no difference, and neither are the values of
// a member for which the file lists none.
func Compare(files ...*OpenAPI) ([]Difference, error) {
	all := differences{}
	have := map[string]bool{}
	for _, f := range files {
		for _, p := range slices.Sorted(maps.Keys(f.bodies)) {
			r := reader{OpenAPI: f, into: paths{}}
			if err := r.read("", f.bodies[p]); err != nil {
				return nil, fmt.Errorf("%s: %w", p, err)
			}
			known := false
			for _, t := range codat.Catalog() {
				if !p.Covers(codat.Pattern(t.Name)) {
					continue
				}
				known, have[t.Name] = true, true
				ours := paths{}
				OfEvent(t).paths(ours, "", nil)
				all.compare(t.Name, r.into, ours)
			}
			if !known {
				all.add(Difference{In: "file"}, string(p))
			}
		}
	}
	for _, t := range codat.Catalog() {
		if !t.Legacy && !t.Uncertain && !have[t.Name] {
			all.add(Difference{In: "catalog"}, t.Name)
		}
	}
	return all.sorted(), nil
}

// differences have the types of each difference, by the difference without types.
type differences map[[3]string][]string

func (d differences) add(one Difference, typ string) {
	key := [3]string{one.Field, one.Value, one.In}
	if !slices.Contains(d[key], typ) {
		d[key] = append(d[key], typ)
	}
}

func (d differences) sorted() []Difference {
	var all []Difference
	for _, key := range slices.SortedFunc(maps.Keys(d), func(a, b [3]string) int { return slices.Compare(a[:], b[:]) }) {
		slices.Sort(d[key])
		all = append(all, Difference{In: key[2], Types: d[key], Field: key[0], Value: key[1]})
	}
	return all
}

// compare adds the differences between the members that a file and the catalog have in the bodies of a type.
func (d differences) compare(typ string, file, catalog paths) {
	for path, at := range file {
		ours := catalog[path]
		if ours == nil {
			if above := catalog[parent(path)]; above != nil && above.inside {
				d.add(Difference{In: "file", Field: path}, typ)
			}
			continue
		}
		if path == "eventType" || len(at.values) == 0 {
			continue
		}
		for v := range at.values {
			if !ours.values[v] {
				d.add(Difference{In: "file", Field: path, Value: cleanName(v)}, typ)
			}
		}
		for v := range ours.values {
			if !at.values[v] {
				d.add(Difference{In: "catalog", Field: path, Value: v}, typ)
			}
		}
	}
	for path, ours := range catalog {
		if above := file[parent(path)]; file[path] == nil && above != nil && above.inside && !ours.former {
			d.add(Difference{In: "catalog", Field: path}, typ)
		}
	}
}

// parent returns the path of the value that a value is in.
func parent(path string) string {
	if in, ok := strings.CutSuffix(path, "[]"); ok {
		return in
	}
	return path[:max(strings.LastIndexByte(path, '.'), 0)]
}
