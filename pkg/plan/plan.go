// Package plan is the contract of write plans: writes to an accounting platform that depend on each other, such as a direct
// cost that needs a new account. A plan is submitted once, and the worker writes carries it out: it pushes each step when
// the steps before it have succeeded, and holds the plan when one fails or when nobody can say whether it happened.
package plan

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/codat"
)

// The limits of a plan keep its record below the largest message of NATS, which is 1 MiB.
const (
	MaxSteps = 100
	MaxBytes = 512 << 10 // of the plan as compact JSON
	maxName  = 64        // bytes of a step's name
	maxID    = 128       // bytes of any other id
	// maxErrors is how many faults one error lists.
	maxErrors = 20
)

// A Plan is writes for one connection of a company.
type Plan struct {
	// ID names the plan in its source: up to 128 letters, digits, - and _. The same plan can be submitted again under its id,
	// and another one cannot.
	ID         string `json:"id"`
	Company    string `json:"company"`
	Connection string `json:"connection"`
	Steps      []Step `json:"steps"` // from 1 to MaxSteps
}

// A Step is one write. A step waits for those that After names and for those that its references name.
type Step struct {
	Name     string         `json:"name"` // up to 64 letters, digits, - and _
	Kind     Kind           `json:"kind"`
	DataType codat.DataType `json:"dataType"`
	After    []string       `json:"after,omitempty"` // names of steps

	// Record is the id of the record that an update, a delete or an attachment concerns. It can have references.
	Record string `json:"record,omitempty"`
	// Body is what a create or an update writes: a JSON object in Codat's model. Its strings can have references, such as
	// "${steps.account.record.id}". In them, $${ stands for ${.
	Body json.RawMessage `json:"body,omitempty"`
	File *File           `json:"file,omitempty"` // of an attachment
	// TimeoutMinutes is after how long Codat says TimedOut of a write that is still Pending. 0 leaves it to Codat.
	TimeoutMinutes int `json:"timeoutMinutes,omitempty"`
}

// A File is what an attachment uploads.
type File struct {
	Name        string `json:"name"`
	ContentType string `json:"contentType"` // such as application/pdf
	Content     []byte `json:"content"`     // in JSON: base64
}

// Kind is what a step does.
type Kind string

// The kinds of step.
const (
	Create     Kind = "create"
	Update     Kind = "update"
	Delete     Kind = "delete"
	Attachment Kind = "attachment"
)

// WriteType is the kind in Codat's words, and "" for a kind that is not among the constants.
func (k Kind) WriteType() codat.WriteType {
	switch k {
	case Create:
		return codat.WriteCreate
	case Update:
		return codat.WriteUpdate
	case Delete:
		return codat.WriteDelete
	case Attachment:
		return codat.WriteUploadAttachment
	}
	return ""
}

// Parse reads a plan from JSON and validates it. An unknown member is an error. The error lists up to 20 faults with the
// step and the path of each, and has no text of a body.
func Parse(text []byte) (Plan, error) {
	var p Plan
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return Plan{}, fmt.Errorf("plan: %w", decodeError(text, err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Plan{}, errors.New("plan: there is more after the JSON object: put one plan into each file")
	}
	return p, p.Validate()
}

// decodeError says where the JSON of a plan is wrong.
func decodeError(text []byte, err error) error {
	offset := int64(-1)
	if syntax, is := errors.AsType[*json.SyntaxError](err); is {
		offset = syntax.Offset
	}
	if mismatch, is := errors.AsType[*json.UnmarshalTypeError](err); is {
		offset = mismatch.Offset
		err = fmt.Errorf("%s: want %s, not %s", cmp.Or(mismatch.Field, "the plan"), jsonType(mismatch.Type), mismatch.Value)
	}
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		return errors.New("it is empty")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the JSON is cut off")
	case offset < 0:
		return inStep(text, err)
	case offset > int64(len(text)):
		return err
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(text[:offset], []byte("\n")), err)
}

// jsonType is JSON's name of what a member has.
func jsonType(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[[]byte]():
		return "a string in base64"
	case t.Kind() == reflect.Slice:
		return "an array"
	case t.Kind() == reflect.Struct:
		return "an object"
	case t.Kind() == reflect.String:
		return "a string"
	}
	return "a whole number"
}

// inStep adds to an error of the decoder, which knows no place, the step that it is in.
func inStep(text []byte, err error) error {
	var p struct{ Steps []json.RawMessage }
	if json.Unmarshal(text, &p) != nil {
		return err
	}
	for i, step := range p.Steps {
		d := json.NewDecoder(bytes.NewReader(step))
		d.DisallowUnknownFields()
		if err := d.Decode(new(Step)); err != nil {
			return fmt.Errorf("steps[%d]: %w", i, err)
		}
	}
	return err
}

// Validate returns an error that lists up to 20 faults of the plan, each with its step and path.
func (p Plan) Validate() error {
	var faults []error
	add := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	add(checkID("id", p.ID, maxID))
	add(checkID("company", p.Company, maxID))
	add(checkID("connection", p.Connection, maxID))
	switch {
	case len(p.Steps) == 0:
		add(errors.New("steps: the plan has none"))
	case len(p.Steps) > MaxSteps:
		return fmt.Errorf("plan: steps: it has %d, and at most %d are possible: submit several plans", len(p.Steps), MaxSteps)
	}
	names := map[string]int{}
	for i, s := range p.Steps {
		if first, taken := names[s.Name]; taken {
			add(fmt.Errorf("steps[%d]: name: steps[%d] is %q too", i, first, s.Name))
			continue
		}
		names[s.Name] = i
		add(checkID(fmt.Sprintf("steps[%d]: name", i), s.Name, maxName))
	}
	for _, s := range p.Steps {
		for _, err := range s.faults(p) {
			add(fmt.Errorf("step %q: %w", s.Name, err))
		}
	}
	if len(faults) == 0 {
		add(p.checkCycle())
	}
	if len(faults) == 0 {
		add(p.checkSize())
	}
	if len(faults) > maxErrors {
		faults = append(faults[:maxErrors:maxErrors], fmt.Errorf("and %d more", len(faults)-maxErrors))
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("plan: %w", errors.Join(faults...))
}

// checkID refuses an id that is empty, too long, or that would be another key or subject than its own.
func checkID(what, id string, most int) error {
	switch {
	case id == "":
		return fmt.Errorf("%s: it is empty", what)
	case len(id) > most:
		return fmt.Errorf("%s: it has %d bytes, and at most %d are possible", what, len(id), most)
	case strings.IndexFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) >= 0:
		return fmt.Errorf("%s: it has characters other than letters, digits, - and _", what)
	}
	return nil
}

// faults returns what is wrong with a step of a plan, but for cycles.
func (s Step) faults(p Plan) (all []error) {
	add := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	kind := s.Kind.WriteType()
	switch {
	case kind == "":
		add("kind: there is no %q: use create, update, delete or attachment", s.Kind)
		return all // the rest depends on the kind
	case !s.DataType.Writable(kind):
		add("dataType: Codat documents no %s of %q: it documents that of %s", s.Kind, s.DataType, joinTypes(codat.WritableDataTypes(kind)))
	}
	body, record, file := s.Kind == Create || s.Kind == Update, s.Kind != Create, s.Kind == Attachment
	switch {
	case body && len(s.Body) == 0:
		add("body: it is missing")
	case body && (!json.Valid(s.Body) || !bytes.HasPrefix(bytes.TrimSpace(s.Body), []byte("{"))):
		add("body: it is not a JSON object")
	case !body && len(s.Body) > 0:
		add("body: a step of kind %q has none", s.Kind)
	}
	switch {
	case record && s.Record == "":
		add("record: it is missing: name the id of the record, or refer to a step, such as ${steps.NAME.record.id}")
	case s.Record == "." || s.Record == "..":
		add("record: it is %q, which no record can be called", s.Record)
	case !record && s.Record != "":
		add("record: a step of kind %q has none", s.Kind)
	}
	switch {
	case file && (s.File == nil || len(s.File.Content) == 0):
		add("file: it is missing or has no content")
	case file && (s.File.Name == "" || s.File.ContentType == ""):
		add("file: its name and contentType are missing")
	case !file && s.File != nil:
		add("file: a step of kind %q has none", s.Kind)
	}
	if s.TimeoutMinutes < 0 {
		add("timeoutMinutes: it must be at least 0")
	}
	for i, name := range s.After {
		if p.index(name) < 0 || name == s.Name {
			add("after[%d]: %s", i, noStep(name, s.Name))
		}
	}
	return append(all, s.referenceFaults(p)...)
}

// noStep says why a step cannot wait for the step called name.
func noStep(name, own string) string {
	if name == own {
		return fmt.Sprintf("it waits for itself (%q)", name)
	}
	return fmt.Sprintf("the plan has no step %q", name)
}

func joinTypes(all []codat.DataType) string {
	text := make([]string, len(all))
	for i, d := range all {
		text[i] = string(d)
	}
	return strings.Join(text, ", ")
}

// index returns the place of the step called name, and -1 without one.
func (p Plan) index(name string) int {
	return slices.IndexFunc(p.Steps, func(s Step) bool { return s.Name == name })
}

// Before returns the places of the steps for which step i waits, in the order of the plan. The plan is valid.
func (p Plan) Before(i int) []int {
	var all []int
	for _, name := range p.Steps[i].After {
		all = append(all, p.index(name))
	}
	for _, r := range p.Steps[i].references() {
		all = append(all, p.index(r.step))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// checkCycle refuses steps that wait for each other.
func (p Plan) checkCycle() error {
	const inside, done = 1, 2
	marks := make([]int, len(p.Steps))
	var path []string
	var visit func(i int) error
	visit = func(i int) error {
		name := p.Steps[i].Name
		switch marks[i] {
		case done:
			return nil
		case inside:
			return fmt.Errorf("steps wait for each other: %s", strings.Join(append(path[slices.Index(path, name):], name), " → "))
		}
		marks[i] = inside
		path = append(path, name)
		for _, before := range p.Before(i) {
			if err := visit(before); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		marks[i] = done
		return nil
	}
	for i := range p.Steps {
		if err := visit(i); err != nil {
			return err
		}
	}
	return nil
}

func (p Plan) checkSize() error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if len(text) <= MaxBytes {
		return nil
	}
	largest := slices.MaxFunc(p.Steps, func(a, b Step) int { return a.size() - b.size() })
	return fmt.Errorf("it has %d bytes, and at most %d are possible: step %q has the most, %d", len(text), MaxBytes, largest.Name, largest.size())
}

func (s Step) size() int {
	size := len(s.Body)
	if s.File != nil {
		size += len(s.File.Content)
	}
	return size
}

// Hash identifies the content of a plan, whatever white space its JSON had.
func (p Plan) Hash() (string, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("plan: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
