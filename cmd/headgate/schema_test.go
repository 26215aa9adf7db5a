package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	jsonvalidate "github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/schema"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/doctor"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A form is one form of what a command prints as JSON.
type form struct {
	item   reflect.Type // of a line, and of the document
	list   bool         // the document has items, and not an item
	member string       // of the document beside its items
	of     reflect.Type // of the member
	lines  bool         // no document has it
}

func list[T any]() form     { return form{item: reflect.TypeFor[T](), list: true} }
func record[T any]() form   { return form{item: reflect.TypeFor[T]()} }
func onlyLine[T any]() form { return form{item: reflect.TypeFor[T](), lines: true} }

func (f form) with(member string, of reflect.Type) form {
	f.member, f.of = member, of
	return f
}

// outputs are the forms of each command. The document of doctor has a schema of its own.
var outputs = map[string][]form{
	"audit":              {record[auditReport](), onlyLine[audit.Exception](), onlyLine[audit.Retry](), onlyLine[audit.Report]()},
	"backup":             {list[copiedStream]()},
	"connections list":   {list[listedConnection]()},
	"connections show":   {record[state.Connection]()},
	"dead list":          {list[operator.Letter]()},
	"dead replay":        {record[operator.RedriveResult](), list[operator.Letter]().with("result", reflect.TypeFor[operator.RedriveResult]())},
	"dead show":          {record[shownLetter]()},
	"doctor":             {list[doctor.Check](), onlyLine[doctor.Result]()},
	"endpoints create":   {record[api.Webhook]()},
	"endpoints delete":   {record[api.Webhook]()},
	"endpoints list":     {list[api.Webhook]().with("not_subscribed", reflect.TypeFor[[]string]())},
	"erase":              {record[operator.EraseResult]()},
	"expected":           {list[state.Expected]()},
	"find":               {list[inspect.Event](), record[foundStory]()},
	"keys":               {list[writtenFile]()},
	"pause":              {record[pausedWorker]()},
	"plans cancel":       {record[planResult]()},
	"plans list":         {list[listedPlan]()},
	"plans resume":       {record[planResult]()},
	"plans retry":        {record[planResult]()},
	"plans show":         {record[plan.Record]()},
	"plans skip":         {record[planResult]()},
	"plans stop":         {record[stoppedPlans]()},
	"plans submit":       {record[submittedPlan]()},
	"provision":          {list[change]()},
	"quarantine list":    {list[inspect.Event]()},
	"quarantine release": {record[operator.Released]()},
	"quarantine show":    {record[shownMessage]()},
	"reads list":         {list[state.Read]()},
	"reads show":         {record[state.Read]()},
	"remove source":      {record[removal[operator.SourceRemoval]]()},
	"remove worker":      {record[removal[operator.WorkerRemoval]]()},
	"replay":             {record[operator.RedriveResult](), list[inspect.Event]().with("result", reflect.TypeFor[operator.RedriveResult]())},
	"restore":            {list[copiedStream]()},
	"resume":             {record[pausedWorker]()},
	"scrub":              {list[audit.Scrubbed]()},
	"send":               {list[sendResult](), list[listedExample]()},
	"step-down":          {record[operator.Leadership]()},
	"streams":            {list[inspect.StreamCopies]()},
	"tail":               {onlyLine[shownEvent]()},
	"types":              {list[catalogType](), list[driftCount](), list[schema.Difference]()},
	"verify":             {record[signature.Diagnosis]()},
	"workers":            {list[runningWorker]()},
	"writes list":        {list[listedWrite]()},
	"writes show":        {record[state.Write]()},
}

const outputSchema = "docs/schemas/output.json"

// schemaOf is the schema of all commands: "dead-list" of a document, and "dead-list-line" of a line.
func schemaOf(t *testing.T) *schema.JSONSchema {
	t.Helper()
	comments, err := schema.ReadComments("../..", "cmd/headgate", "pkg/audit", "pkg/backup", "pkg/claims", "pkg/codat", "pkg/codat/api", "pkg/codat/schema",
		"pkg/deadletter", "pkg/doctor", "pkg/inspect", "pkg/operator", "pkg/plan", "pkg/signature", "pkg/state", "pkg/stream")
	if err != nil {
		t.Fatal(err)
	}
	w := &schema.Writer{Refs: "#/$defs/", Comments: comments}
	var commands schema.Schemas
	for _, command := range slices.Sorted(maps.Keys(outputs)) {
		var documents, lines []*schema.JSONSchema
		for _, f := range outputs[command] {
			lines = append(lines, w.Write(schema.Of(f.item)))
			if f.of != nil && f.of.Kind() == reflect.Struct {
				lines = append(lines, w.Write(schema.Of(f.of)))
			}
			if !f.lines {
				documents = append(documents, f.document(w))
			}
		}
		name := strings.ReplaceAll(command, " ", "-")
		if documents != nil {
			commands = append(commands, schema.Named{Name: name, Schema: &schema.JSONSchema{Description: "What headgate " + command + " -o json prints.", AnyOf: documents}})
		}
		commands = append(commands, schema.Named{Name: name + "-line", Schema: &schema.JSONSchema{Description: "A line of headgate " + command + " -o jsonl.", AnyOf: lines}})
	}
	return &schema.JSONSchema{
		Schema: "https://json-schema.org/draft/2020-12/schema",
		ID:     "https://github.com/headgate/headgate/blob/main/" + outputSchema,
		Title:  "What the commands of headgate print with -o json and -o jsonl",
		Description: "Written by UPDATE=1 go test ./cmd/headgate. #/$defs/dead-list is the document of headgate dead list, #/$defs/dead-list-line a line of it. " +
			"The version changes when a member is removed or gets another meaning. Members and values of enumerations can be added; a reader ignores those that it does not know. " +
			"Numbers have every digit: those over 2^53 need a reader that keeps them.",
		Defs: append(commands, w.Own...),
	}
}

func (f form) document(w *schema.Writer) *schema.JSONSchema {
	d := &schema.JSONSchema{Type: "object", Required: []string{"version"}, Properties: schema.Schemas{{Name: "version", Schema: &schema.JSONSchema{Type: "integer"}}}}
	name, content := "item", w.Write(schema.Of(f.item))
	if f.list {
		name, content = "items", &schema.JSONSchema{Type: "array", Items: content}
	}
	d.Properties, d.Required = append(d.Properties, schema.Named{Name: name, Schema: content}), append(d.Required, name)
	if f.of != nil {
		d.Properties = append(d.Properties, schema.Named{Name: f.member, Schema: w.Write(schema.Of(f.of))})
	}
	return d
}

// Every command that prints JSON prints it by --output, and its schema is in docs.
func TestOutput_SchemaHasEveryCommand(t *testing.T) {
	t.Parallel()
	for name, n := range nodes(grammar(t)) {
		has := func(flag string) bool {
			return len(n.Children) == 0 && slices.ContainsFunc(n.Flags, func(f *kong.Flag) bool { return f.Name == flag })
		}
		if has("json") != has("output") {
			t.Errorf("headgate %s has one of --json and --output: embed outputFlags", name)
		}
		if _, known := outputs[name]; known != has("output") {
			t.Errorf("headgate %s has --output: %v; outputs has it: %v", name, has("output"), known)
		}
	}
	got, err := schema.EncodeJSON(schemaOf(t))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("../..", outputSchema)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || string(want) != string(got) {
		t.Errorf("%s is not of these commands, %v: UPDATE=1 go test ./cmd/headgate -run TestOutput writes it", file, err)
	}
}

// A checker validates what commands print.
type checker struct {
	*broker
	t       *testing.T
	schemas map[string]*jsonvalidate.Schema // of documents and lines
	printed map[string]bool
}

func newChecker(t *testing.T, r *broker) *checker {
	t.Helper()
	text, err := os.Open(filepath.Join("../..", outputSchema))
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	document, err := jsonvalidate.UnmarshalJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonvalidate.NewCompiler()
	if err := compiler.AddResource("output.json", document); err != nil {
		t.Fatal(err)
	}
	k := &checker{broker: r, t: t, schemas: map[string]*jsonvalidate.Schema{}, printed: map[string]bool{}}
	defs, _ := document.(map[string]any)["$defs"].(map[string]any)
	for command := range outputs {
		name := strings.ReplaceAll(command, " ", "-")
		for _, name := range []string{name, name + "-line"} {
			if defs[name] == nil {
				continue
			}
			if k.schemas[name], err = compiler.Compile("output.json#/$defs/" + name); err != nil {
				t.Fatal(err)
			}
		}
	}
	return k
}

// run runs a command with -o json and with -o jsonl, validates both, and returns the lines.
func (k *checker) run(want int, args ...string) []string {
	k.t.Helper()
	return k.runAs(want, []string{"json", "jsonl"}, args...)
}

func (k *checker) runAs(want int, formats []string, args ...string) (lines []string) {
	k.t.Helper()
	begun := make([]*command, len(formats)) // at once
	for i, format := range formats {
		all := append(slices.Clone(args), "-o", format)
		if !slices.Contains(args, "--codat-url") && !slices.Contains([]string{"verify", "keys", "types"}, args[0]) {
			all = append(all, "--nats-url", k.URL)
		}
		begun[i] = begin(k.t, "", all...)
	}
	ctx, err := grammar(k.t).Parse(args)
	if err != nil {
		k.t.Fatalf("%q: %v", args, err)
	}
	for i, format := range formats {
		name := strings.ReplaceAll(commandName(ctx.Selected()), " ", "-")
		c := begun[i].exit(want)
		texts := []string{c.out.String()}
		if format == outputLines {
			name += "-line"
			lines = c.out.lines()
			texts = lines
		}
		if len(texts) == 0 {
			k.t.Errorf("%q prints nothing", args)
		}
		for _, text := range texts {
			instance, err := jsonvalidate.UnmarshalJSON(strings.NewReader(text))
			if err == nil {
				err = k.schemas[name].Validate(instance)
			}
			if err != nil {
				k.t.Errorf("%q: %v in %s", args, err, text)
			}
		}
		k.printed[name] = true
	}
	return lines
}

func TestOutput_IsAsItsSchema(t *testing.T) {
	t.Parallel()
	specs := append(builtinSpecs(), bookkeeper(nil).Spec())
	r := newBroker(t, specs...)
	k := newChecker(t, r)
	k.fill()
	for _, args := range []string{
		"audit --waiting --settle 1ms", "connections list", "connections show c-1 k-1", "dead list --all", "dead show 1 --payload", "expected", "find msg_1",
		"find c-1", "plans list", "plans show p", "plans stop --dry-run", "quarantine list", "reads list", "reads show c-1 k-1 invoices",
		"replay --worker bookkeeper --all --dry-run", "replay --worker bookkeeper --id msg_1", "dead replay 1 --dry-run", "dead replay 1", "scrub --settle 1ms", "streams",
		"workers", "writes list", "writes show push-1 --payload", "pause bookkeeper --until 2h", "resume bookkeeper", "provision --allow-loss",
		"types", "doctor --list", "send --list", "erase c-9", "erase c-1 --dry-run", "quarantine show 2 --payload",
	} {
		k.run(0, strings.Fields(args)...)
	}
	k.run(1, "types", "--compare", "../../pkg/codat/schema/testdata/openapi31.yaml")
	k.run(0, "types", "--drift", metricsServer(t))
	k.runAs(0, []string{"jsonl"}, "tail", "--durable", k.place(), "--limit", "1", "--payload")
	k.runAs(0, []string{"json"}, "quarantine", "release", "2", "--type", "company.created")
	second := r.quarantined("odd_2", "no_type", []byte(`{"a":1}`))
	k.runAs(0, []string{"jsonl"}, "quarantine", "release", fmt.Sprint(second), "--type", "company.created")
	k.runAs(0, []string{"jsonl"}, "doctor", "--only", "HG-STR-*,HG-NATS-001")
	for _, format := range []string{"json", "jsonl"} {
		folder := filepath.Join(t.TempDir(), "secrets")
		k.runAs(0, []string{format}, "keys", folder)
		folder = filepath.Join(t.TempDir(), "backup")
		k.runAs(0, []string{format}, "backup", folder)
		k.runAs(0, []string{format}, "restore", folder, "--data-dir", t.TempDir())
		k.runAs(0, []string{format}, "remove", "worker", map[string]string{"json": "reads", "jsonl": "connections"}[format], "--yes", "--allow-loss")
	}
	k.actOnPlans()
	k.send()
	k.endpoints()
	streamtest.Provision(t, r.JS, stream.Layout{Source: "codat-uk"})
	k.run(0, "remove", "source", "codat-uk", "--dry-run")
	for command := range outputs {
		for _, name := range []string{strings.ReplaceAll(command, " ", "-"), strings.ReplaceAll(command, " ", "-") + "-line"} {
			needsCluster := strings.HasPrefix(name, "step-down") // a leader needs followers to step down
			hasOwn := name == "tail"                             // it prints no document
			if !k.printed[name] && !needsCluster && !hasOwn {
				t.Errorf("no output was validated by #/$defs/%s", name)
			}
		}
	}
}

// fill stores a record of each kind, with texts that have to be escaped and numbers that a float does not have.
func (k *checker) fill() {
	k.event("company.created", "msg_1")
	k.quarantined("odd_1", "no_type", []byte(`{"payload":{"companyId":"c-1"}}`))
	body := []byte(`{"eventType":"company.created","n":9007199254740993,"d":0.1000000000000000055511151231257827}`)
	letter := deadletter.Letter{
		Worker: "bookkeeper", Type: "company.created", WebhookID: "msg_1", Sequence: 9007199254740993, Company: "c-1", Cause: "attempts", FirstError: "\x1b[31mred",
		LastError: "\u202e\u009b1A", Attempts: 3, FirstAttempt: morning, LastAttempt: morning, Host: "pod-1", Body: body,
	}
	if err := deadletter.Bury(k.t.Context(), k.publisher, source, letter); err != nil {
		k.t.Fatal(err)
	}
	k.put(state.ConnectionsName, "c-1.k-1", linkedAgain)
	k.put(state.WritesName, "push-1", failed)
	k.put(state.ReadsName, "c-1.k-1.invoices", state.Read{Company: "c-1", Connection: "k-1", DataType: codat.DataInvoices})
	k.put(stream.ExpectedState, "silent.read.completed", state.Expected{Kind: state.SilentType, Due: morning, Type: "read.completed"})
	k.planned("p", "c-1", plan.StatusRunning, []plan.Step{step("a"), step("b", "a")}, nil)
	kv, err := k.JS.KeyValue(k.t.Context(), source.WorkersBucket())
	if err == nil {
		_, err = kv.Put(k.t.Context(), "bookkeeper.one", []byte(`{"worker":"bookkeeper","instance":"one","host":"pod-1","version":"v1","seen":"`+time.Now().UTC().Format(time.RFC3339)+`"}`))
	}
	if err != nil {
		k.t.Fatal(err)
	}
	for _, line := range k.run(0, "dead", "show", "1", "--payload") {
		contains(k.t, line, `"n":9007199254740993`, `"d":0.1000000000000000055511151231257827`, `"sequence":9007199254740993`)
	}
}

// place returns the file of a tail that begins with the first event.
func (k *checker) place() string {
	k.t.Helper()
	st, err := k.JS.Stream(k.t.Context(), source.Stream())
	if err != nil {
		k.t.Fatal(err)
	}
	text, err := json.Marshal(tailPosition{Created: st.CachedInfo().Created})
	file := filepath.Join(k.t.TempDir(), "place")
	if err := cmp.Or(err, os.WriteFile(file, text, 0o600)); err != nil {
		k.t.Fatal(err)
	}
	return file
}

func (k *checker) actOnPlans() {
	k.answering(plan.Reply{Status: plan.StatusRunning, New: true})
	for _, args := range []string{"submit " + examplePlan, "resume p", "retry p a", "skip p a", "cancel p"} {
		k.run(0, append([]string{"plans"}, strings.Fields(args)...)...)
	}
}

// send posts to a receiver that accepts all.
func (k *checker) send() {
	w := newWebhook(k.t, 204)
	k.run(0, "send", "company.created", "--to", w.URL, "--secret", secret)
	file := filepath.Join(k.t.TempDir(), "request")
	if err := os.WriteFile(file, []byte("webhook-id: msg_1\nwebhook-timestamp: 1\nwebhook-signature: v1,x\n\n{}"), 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.run(1, "verify", file, "--secret", secret)
}

func (k *checker) endpoints() {
	a := newCodatAccount(k.t)
	for _, format := range []string{"json", "jsonl"} {
		k.runAs(0, []string{format}, slices.Concat([]string{"endpoints", "create", hook, "--type", "connection.>"}, a.flags())...)
	}
	lines := k.run(0, slices.Concat([]string{"endpoints", "list"}, a.flags())...)
	for i, endpoint := range decode[api.Webhook](k.t, lines) {
		k.runAs(0, []string{[]string{"json", "jsonl"}[i]}, slices.Concat([]string{"endpoints", "delete", endpoint.ID, "--yes"}, a.flags())...)
	}
}
