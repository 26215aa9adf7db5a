package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers/builtin"
)

// workerTemplate is the NATS configuration of one worker, executed with a Worker. Every other *.tmpl in deploy/nats is
// executed once, with all of them: {{range .Workers}}.
const workerTemplate = "deploy/nats/worker.conf.tmpl"

// beginOfSection and endOfSection are in the lines around a generated section.
const (
	beginOfSection = "by make generate."
	endOfSection   = "End of what is generated."
)

// zeros is the digest of an image that has none yet.
var zeros = "sha256:" + strings.Repeat("0", 64)

// sections are the lines that a file has for each worker, as templates that are executed with the Worker: one for each of
// its generated sections, in their order.
var sections = []struct {
	file  string
	lines []string
}{
	{"docker-compose.yml", []string{`{{.Program}}:
  <<: *worker
  image: headgate/{{.Program}}:${VERSION:-dev}
  build: {<<: *build, target: worker, args: {VERSION: "${VERSION:-dev}", WORKER: {{.Name}}}}
  volumes: [./deploy/compose/secrets/{{.Name}}:/run/secrets/nats:ro]
`}},
	{"deploy/nats/accounts.conf", []string{
		"include {{.Program}}.conf\n",
		`{{$worker := .}}{{range .Exports -}}
{ service: "{{.Subject}}", accounts: [{{$worker.Variable}}{{range .Readers}}, {{.}}{{end}}{{if .Teams}}, TEAMS{{end}}{{if .Support}}, SUPPORT{{end}}]{{if .Stream}}, response_type: stream{{end}} }
{{end}}`,
		"{{.Variable}}: { users: [ { nkey: ${{.Variable}}_NKEY, permissions: ${{.Variable}}_MAY } ], imports: ${{.Variable}}_IMPORTS" +
			"{{if .Spec.Requests}}, exports: ${{.Variable}}_EXPORTS{{end}} }\n",
		`{{range .NewStates -}}
{ service: { account: HEADGATE, subject: "$JS.API.STREAM.INFO.KV_CODAT_{{.}}" }, to: "HEADGATE.API.STREAM.INFO.KV_CODAT_{{.}}" }
{ service: { account: HEADGATE, subject: "$JS.API.DIRECT.GET.KV_CODAT_{{.}}.>" }, to: "HEADGATE.API.DIRECT.GET.KV_CODAT_{{.}}.>" }
{{end}}`,
		`{{range .NewStates -}}
{ service: "HEADGATE.API.STREAM.INFO.KV_CODAT_{{.}}" }
{ service: "HEADGATE.API.DIRECT.GET.KV_CODAT_{{.}}.>" }
{{end}}`,
	}},
	{"deploy/k8s/base/kustomization.yaml", []string{"- workers/{{.Name}}\n"}},
	{"deploy/k8s/overlays/dev/kustomization.yaml", []string{"- { name: headgate/{{.Program}}, newTag: dev }\n"}},
	{"deploy/k8s/overlays/production/kustomization.yaml", []string{`- { name: headgate/{{.Program}}, newName: registry.example.com/headgate/{{.Program}}, digest: "` + zeros + "\" }\n"}},
	{"README.md", []string{"- `{{.Program}}`: {{.Doc}}\n"}},
	{"deploy/check/testdata/other/kustomization.yaml", []string{"- { name: headgate/{{.Program}}, newTag: v1 }\n"}},
}

// A Worker is what templates know about a built-in worker.
type Worker struct {
	Name     string            // for example connections
	Variable string            // the name as a part of a NATS variable: CONNECTIONS
	Program  string            // the name of its binary, image and service: worker-connections
	Doc      string            // the first sentence of the comment of its package, without "Package connections is"
	Spec     stream.WorkerSpec // what is provisioned for it: Spec.State are the states that it writes, without the source

	NewStates []string            // the states that no worker before it in the list writes
	Readers   map[string][]string // the variables of the workers that read a state of another
	Others    []string            // those of all other workers, of the first worker; nil of the others
}

// source is that of the deployment's files.
const source = stream.Source("codat")

// teamRequests are the requests that teams may make. The operator may make all.
var teamRequests = []string{"plans.submit"}

// Subjects are those to which the worker publishes.
func (w Worker) Subjects() []string { return w.Spec.Subjects(source) }

// An export is a subject that the account HEADGATE exports to the worker's.
type export struct {
	Subject string
	Stream  bool // a request has several answers
	Teams   bool // teams may ask it too: they read states
	Support bool // the role support may ask it too: it reads claims

	Readers []string // other workers, which read the state
}

// Exports are the exports to the worker's account. A state that it only reads is exported with those of the worker that writes
// it, and what all workers ask of the streams that they share with those of the first: between two exports of one subject, a server chooses at random.
func (w Worker) Exports() []export {
	requests := func(bucket string) []string {
		return []string{"$JS.API.STREAM.INFO.KV_" + bucket, "$JS.API.DIRECT.GET.KV_" + bucket + ".>"}
	}
	shared := []string{"$JS.API.STREAM.INFO." + source.ParkedStream(), "$JS.API.STREAM.INFO." + source.DeadStream()}
	var all []export
	for _, subject := range w.Subjects() {
		if slices.Contains(shared, subject) && w.Others == nil {
			continue
		}
		if slices.ContainsFunc(w.Spec.Reads, func(state string) bool { return slices.Contains(requests(source.StateBucket(state)), subject) }) {
			continue
		}
		e := export{Subject: subject, Stream: strings.HasPrefix(subject, "$JS.API.CONSUMER.MSG.NEXT.")}
		if slices.Contains(shared, subject) {
			e.Readers = w.Others
		}
		e.Support = slices.Contains(requests(source.ClaimsBucket(w.Spec.Name)), subject)
		for _, state := range w.Spec.State {
			if slices.Contains(requests(source.StateBucket(state)), subject) {
				e.Teams, e.Readers = true, w.Readers[state]
			}
		}
		all = append(all, e)
	}
	return all
}

// Requests are the subjects of the requests that the worker answers.
func (w Worker) Requests() []string { return w.Spec.RequestSubjects(source) }

// TeamRequests are the subjects of those of teamRequests that the worker answers.
func (w Worker) TeamRequests() []string {
	var all []string
	for _, request := range teamRequests {
		if slices.ContainsFunc(w.Spec.Requests, func(r string) bool { return codat.Pattern(r).Match(request) }) {
			all = append(all, string(source)+"."+request)
		}
	}
	return all
}

// Workers returns the built-in workers of the repository in folder root, as templates see them.
func Workers(root string) ([]Worker, error) {
	var all []Worker
	states, readers := map[string]bool{}, map[string][]string{}
	for _, w := range builtin.Workers() {
		for _, state := range w.Spec.Reads {
			readers[state] = append(readers[state], variable(w.Spec.Name))
		}
	}
	for _, w := range builtin.Workers() {
		var newStates []string
		for _, state := range w.Spec.State {
			if !states[state] {
				newStates = append(newStates, state)
			}
			states[state] = true
		}
		sentence, err := synopsis(filepath.Join(root, "workers", w.Spec.Name))
		if err != nil {
			return nil, err
		}
		all = append(all, Worker{
			Name:     w.Spec.Name,
			Variable: variable(w.Spec.Name),
			Program:  w.Program(),
			Doc:      sentence,
			Spec:     w.Spec,

			NewStates: newStates,
			Readers:   readers,
		})
	}
	all[0].Others = []string{}
	for _, w := range all[1:] {
		all[0].Others = append(all[0].Others, w.Variable)
	}
	return all, nil
}

// variable returns the part of NATS variables that stands for a worker.
func variable(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

// synopsis returns the first sentence of a package's comment, without its subject: "the worker that …".
func synopsis(folder string) (string, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			return "", err
		}
		if parsed.Doc != nil {
			return strings.TrimPrefix(new(doc.Package).Synopsis(parsed.Doc.Text()), "Package "+parsed.Name.Name+" is "), nil
		}
	}
	return "", fmt.Errorf("%s has no package with a comment: a built-in worker is the package workers/<name>", folder)
}

// A repository is the folder of one, and the text of the files that are generated in it, by their paths from there.
type repository struct {
	root  string
	files map[string][]byte
}

// Render returns the text of every generated file of the repository in folder root, by its path from there.
func Render(root string) (map[string][]byte, error) {
	r := repository{root, map[string][]byte{}}
	workers, err := Workers(root)
	if err != nil {
		return nil, err
	}
	return r.files, errors.Join(
		r.renderNATS(workers),
		r.renderSections(workers),
		r.renderNATSFiles(), // after all *.conf are known
		r.renderPrometheusRule(),
		r.renderAsyncAPI(),
		r.renderRecords(),
	)
}

// renderNATS executes the templates in deploy/nats.
func (r repository) renderNATS(workers []Worker) error {
	templates, err := filepath.Glob(filepath.Join(r.root, "deploy/nats/*.tmpl"))
	if err != nil {
		return err
	}
	for _, file := range templates {
		parsed, err := template.ParseFiles(file)
		if err != nil {
			return err
		}
		name := path.Join("deploy/nats", filepath.Base(file))
		if name != workerTemplate {
			if err := r.execute(strings.TrimSuffix(name, ".tmpl"), parsed, struct{ Workers []Worker }{workers}); err != nil {
				return err
			}
			continue
		}
		for _, w := range workers {
			if err := r.execute("deploy/nats/"+w.Program+".conf", parsed, w); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r repository) execute(name string, t *template.Template, data any) error {
	var text bytes.Buffer
	if err := t.Execute(&text, data); err != nil {
		return err
	}
	r.files[name] = text.Bytes()
	return nil
}

// renderSections puts the lines for each worker into the files that list workers.
func (r repository) renderSections(workers []Worker) error {
	for _, s := range sections {
		var all []string
		for _, lines := range s.lines {
			parsed, err := template.New(s.file).Parse("{{range .}}" + lines + "{{end}}")
			if err != nil {
				return err
			}
			var text strings.Builder
			if err := parsed.Execute(&text, workers); err != nil {
				return err
			}
			all = append(all, text.String())
		}
		if err := r.renderSection(s.file, all...); err != nil {
			return err
		}
	}
	return nil
}

// renderNATSFiles lists the configuration of the NATS servers for kustomize, which takes no pattern.
func (r repository) renderNATSFiles() error {
	there, err := filepath.Glob(filepath.Join(r.root, "deploy/nats/*.conf"))
	if err != nil {
		return err
	}
	old, err := stale(r.root, r.files)
	if err != nil {
		return err
	}
	var names []string
	for _, file := range there {
		if !slices.Contains(old, file) {
			names = append(names, "- "+filepath.Base(file)+"\n")
		}
	}
	for name := range r.files {
		if path.Dir(name) == "deploy/nats" {
			names = append(names, "- "+path.Base(name)+"\n")
		}
	}
	slices.Sort(names)
	return r.renderSection("deploy/nats/kustomization.yaml", strings.Join(slices.Compact(names), ""))
}

// renderSection puts lines between the two lines that mark a generated section of a file, indented as the first; one text
// for each section, in their order.
func (r repository) renderSection(name string, sections ...string) error {
	old, err := os.ReadFile(filepath.Join(r.root, name))
	if err != nil {
		return err
	}
	var text strings.Builder
	inside, found := false, 0
	for line := range strings.Lines(string(old)) {
		switch {
		case strings.Contains(line, endOfSection):
			inside = false
		case inside:
			continue
		case strings.Contains(line, beginOfSection):
			inside = true
			found++
		}
		text.WriteString(line)
		if !inside || found > len(sections) {
			continue
		}
		indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
		for l := range strings.Lines(sections[found-1]) {
			text.WriteString(indent + l)
		}
	}
	if found != len(sections) || inside {
		return fmt.Errorf("%s has %d generated sections; want %d: put a comment with %q before each list of workers, and one with %q after it",
			name, found, len(sections), beginOfSection, endOfSection)
	}
	r.files[name] = []byte(text.String())
	return nil
}

// renderPrometheusRule makes of the alerts' rules what the Prometheus operator takes.
func (r repository) renderPrometheusRule() error {
	rules, err := os.ReadFile(filepath.Join(r.root, "deploy/monitoring/rules.yml"))
	if err != nil {
		return err
	}
	_, groups, ok := strings.Cut(string(rules), "groups:\n")
	if !ok {
		return errors.New("deploy/monitoring/rules.yml has no line \"groups:\"")
	}
	var text strings.Builder
	text.WriteString("# rules.yml as the Prometheus operator takes it: generated by make generate.\n" +
		"apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: headgate\nspec:\n  groups:\n")
	for line := range strings.Lines(groups) {
		if strings.TrimSpace(line) != "" {
			line = "  " + line
		}
		text.WriteString(line)
	}
	r.files["deploy/monitoring/prometheusrule.yaml"] = []byte(text.String())
	return nil
}
