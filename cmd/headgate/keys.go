package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/nats-io/nkeys"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers/builtin"
)

// keysCmd creates the secrets of a deployment.
type keysCmd struct {
	Folder string   `arg:"" help:"Folder for the secrets, for example deploy/compose/secrets. It gets a folder for each process and one for the NATS servers."`
	Server []string `name:"server" env:"-" default:"nats-1,nats-2,nats-3" placeholder:"HOST" help:"Host name of each NATS server in the cluster, with the port when it is not 6222."`
	Spec   []string `name:"spec" env:"-" sep:"none" type:"existingfile" placeholder:"FILE" help:"What the --spec of a worker that is not built in printed: create a key and an account for it."`
	Team   []string `name:"team" env:"-" placeholder:"NAME" help:"Name of a team that reads events: create a key for its account too."`
	Check  bool     `name:"check" env:"-" help:"Create nothing, and exit with 1 when a secret is missing."`

	outputFlags `embed:""`
}

// Validate reports a --spec that cannot be read or whose worker has another's name or answers requests, a --server that is not a host name, and a
// --team whose durable consumer cannot have that name or is another's.
func (c *keysCmd) Validate() error {
	for _, name := range c.Server {
		if name == "" || strings.ContainsAny(name, " /@\"") {
			return fmt.Errorf("--server: %q is not a host name: give nats-1 or nats-1:6222", name)
		}
	}
	specs, err := readSpecs(c.Spec)
	if err != nil {
		return err
	}
	taken := slices.Concat(roles(), reservedNames, c.Team)
	for _, spec := range specs {
		if slices.Contains(taken, spec.Name) {
			return fmt.Errorf("--spec: the name %s is taken by a role, a built-in worker or a team: choose another", spec.Name)
		}
		if len(spec.Requests) > 0 {
			return fmt.Errorf("--spec: the worker %s answers requests (%s), which no account imports from its own: write its account, and the imports of those who ask, as deploy/nats has them for worker-writes",
				spec.Name, strings.Join(spec.Requests, ", "))
		}
		taken = append(taken, spec.Name)
	}
	for _, name := range c.Team {
		if err := stream.ValidateWorker(name); err != nil {
			return fmt.Errorf("--team: %w", err)
		}
		if slices.Contains(slices.Concat(roles(), reservedNames), name) {
			return fmt.Errorf("--team: the name %s is reserved for Headgate: choose another", name)
		}
	}
	return nil
}

// roles are the NATS users of a deployment, by their names in deploy/nats/accounts.conf.
func roles() []string {
	all := []string{"ingress", "provision", "admin", "operator", "console", "console-operator", "watch", "support", "system"}
	for _, w := range builtin.Workers() {
		all = append(all, w.Spec.Name)
	}
	return all
}

// reservedNames are the folders beside those of the users, and the accounts without one: no team and no worker can have their
// names.
var reservedNames = []string{"nats", "routes", "webhook", "grafana", "users", "headgate", "teams", "workers"}

// The modes below the folder, which only its user can open: processes in containers read the files as other users.
const (
	secretsFolderMode = 0o755
	secretsFileMode   = 0o644
)

// Run creates the secrets that are missing, and keeps the others but for their modes. The modes do not depend on the umask.
func (c *keysCmd) Run(_ context.Context, t *terminal) error {
	if c.Check {
		return c.check()
	}
	if err := os.MkdirAll(c.Folder, 0o700); err != nil {
		return fmt.Errorf("create the folder: %w", err)
	}
	if err := os.Chmod(c.Folder, 0o700); err != nil {
		return fmt.Errorf("restrict the folder to its user: %w", err)
	}
	return writtenFileListing.report(t, c.outputFlags, func(each func(writtenFile) error) error {
		return c.write(secretsFolder{c.Folder, each})
	})
}

// write writes the files that are missing or change.
func (c *keysCmd) write(s secretsFolder) error {
	before, err := filepath.Glob(filepath.Join(c.Folder, "*", "nkey"))
	if err != nil {
		return err
	}
	workers, accounts, err := s.workers(c.Spec)
	if err != nil {
		return err
	}
	for _, team := range c.Team {
		if slices.Contains(workers, team) {
			return fmt.Errorf("--team: %s is the name of a worker whose spec is in %s: choose another", team, c.Folder)
		}
	}
	users := roles()
	for _, seed := range before {
		if name := filepath.Base(filepath.Dir(seed)); !slices.Contains(workers, name) {
			users = append(users, name)
		}
	}
	users = append(users, c.Team...)

	known := "# The public keys of the users. Written by headgate keys from the seeds, which the processes have.\n"
	for i, name := range users {
		if slices.Contains(users[:i], name) {
			continue
		}
		public, err := s.nkey(name)
		if err != nil {
			return fmt.Errorf("key of %s: %w", name, err)
		}
		known += fmt.Sprintf("%s_NKEY: %s\n", natsName(name), public)
	}
	password, err := s.ensure("routes/password", random)
	if err != nil {
		return err
	}
	for name, text := range map[string]func() string{
		"nats/encryption.conf": func() string { return fmt.Sprintf("key: %q", random()) },
		"webhook/key":          func() string { return "whsec_" + base64.StdEncoding.EncodeToString(randomBytes()) },
		"grafana/password":     random,
	} {
		if _, err := s.ensure(name, text); err != nil {
			return err
		}
	}
	return errors.Join(s.write("nats/keys.conf", known), s.write("nats/workers.conf", accounts), s.write("nats/routes.conf", c.routes(password)))
}

// check returns an error that names the first secret that is missing and how to create it.
func (c *keysCmd) check() error {
	files := []string{"nats/keys.conf", "nats/workers.conf", "nats/routes.conf", "routes/password", "webhook/key", "grafana/password"}
	for _, name := range slices.Concat(roles(), c.Team) {
		files = append(files, name+"/nkey")
	}
	for _, name := range files {
		switch info, err := os.Stat(filepath.Join(c.Folder, name)); {
		case errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0:
			return fmt.Errorf("%s has no %s: run headgate keys first; with Compose: docker compose run --rm -u \"$(id -u):$(id -g)\" keys", c.Folder, name)
		case err != nil:
			return fmt.Errorf("cannot tell whether the secrets are there: %w", err)
		}
	}
	return nil
}

// account is the account of a worker that is not built in, as deploy/nats/accounts.conf includes it.
var account = template.Must(template.New("account").Parse(`
{{.Account}}: {
	users: [ {
		nkey: {{.Key}}
		permissions: {
			publish: [
{{- range .Subjects}}
				"{{.}}"
{{- end}}
			]
			subscribe: "_INBOX_{{.Name}}.>"
		}
	} ]
	imports: [
		{ service: { account: HEADGATE, subject: "$JS.API.INFO" } }
{{- range .Subjects}}
		{ service: { account: WORKERS, subject: "{{.}}" } }
{{- end}}
	]
}
`))

// workers keeps each spec beside the seed of its worker, and returns the names of the workers whose specs the folder has,
// these and earlier ones, and the configuration of their accounts.
func (s secretsFolder) workers(specs []string) (names []string, accounts string, err error) {
	given, err := readSpecs(specs)
	if err != nil {
		return nil, "", err
	}
	for _, spec := range given {
		text, err := json.MarshalIndent(spec, "", "  ")
		if err != nil {
			return nil, "", err
		}
		if err := s.write(spec.Name+"/spec.json", string(text)+"\n"); err != nil {
			return nil, "", err
		}
	}
	kept, err := filepath.Glob(filepath.Join(s.folder, "*", "spec.json"))
	if err != nil {
		return nil, "", err
	}
	all, err := readSpecs(kept)
	if err != nil {
		return nil, "", err
	}
	for _, spec := range all { // a later version can have a built-in worker of the name
		if slices.Contains(slices.Concat(roles(), reservedNames), spec.Name) {
			return nil, "", fmt.Errorf("%s has the spec of a worker with a name that Headgate uses: give the worker another name and remove spec.json",
				filepath.Join(s.folder, spec.Name))
		}
	}
	text := strings.Builder{}
	text.WriteString("# The accounts of workers that are not built in. Written by headgate keys from their specs, beside their seeds.\n")
	for _, spec := range all {
		key, err := s.nkey(spec.Name)
		if err != nil {
			return nil, "", fmt.Errorf("key of %s: %w", spec.Name, err)
		}
		err = account.Execute(&text, struct {
			Account, Key, Name string
			Subjects           []string
		}{natsName(spec.Name), key, spec.Name, spec.Subjects("codat")})
		if err != nil {
			return nil, "", err
		}
		names = append(names, spec.Name)
	}
	return names, text.String(), nil
}

// natsName is a user's name as NATS's configuration has it.
func natsName(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

// routes is the configuration with the addresses of the cluster's servers and their common password.
func (c *keysCmd) routes(password string) string {
	text := "# Written by headgate keys.\nauthorization: { user: routes, password: \"" + password + "\" }\nroutes: [\n"
	for _, host := range c.Server {
		if !strings.Contains(host, ":") {
			host += ":6222"
		}
		text += fmt.Sprintf("\t\"nats://routes:%s@%s\"\n", password, host)
	}
	return text + "]\n"
}

func randomBytes() []byte {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return b
}

// random returns a secret of 64 hexadecimal digits: no format needs to quote it.
func random() string { return hex.EncodeToString(randomBytes()) }

// secretsFolder are the files of a folder.
type secretsFolder struct {
	folder string
	wrote  func(writtenFile) error
}

// A writtenFile is a file that keys has written.
type writtenFile struct {
	File string `json:"file"`
}

var writtenFileListing = listing[writtenFile]{
	noun: "file",
	id:   func(f writtenFile) string { return f.File },
	text: func(f writtenFile) string { return "wrote " + f.File },
}

// nkey returns the public key of a user, and creates the seed when it is missing.
func (s secretsFolder) nkey(name string) (string, error) {
	user, err := nkeys.CreateUser()
	if err != nil {
		return "", err
	}
	fresh, err := user.Seed()
	if err != nil {
		return "", err
	}
	file := name + "/nkey"
	seed, err := s.ensure(file, func() string { return string(fresh) })
	if err != nil {
		return "", err
	}
	if user, err = nkeys.FromSeed([]byte(seed)); err != nil {
		return "", fmt.Errorf("%s does not contain a seed: remove the file and run headgate keys again: %w", filepath.Join(s.folder, file), err)
	}
	return user.PublicKey()
}

// ensure returns the text of a file, and creates the file when it is missing.
func (s secretsFolder) ensure(name string, fresh func() string) (string, error) {
	text, err := os.ReadFile(filepath.Join(s.folder, name))
	if errors.Is(err, fs.ErrNotExist) {
		made := fresh()
		return made, s.write(name, made+"\n")
	}
	return strings.TrimSpace(string(text)), errors.Join(err, s.share(name))
}

// share gives a file and its folder the modes with which other users can read them.
func (s secretsFolder) share(name string) error {
	path := filepath.Join(s.folder, name)
	for path, mode := range map[string]fs.FileMode{filepath.Dir(path): secretsFolderMode, path: secretsFileMode} {
		info, err := os.Stat(path)
		if err == nil && info.Mode().Perm()&mode != mode { // a mode that is wider is the user's choice, or another system's
			err = os.Chmod(path, mode)
			if readable := mode &^ 0o200; info.Mode().Perm()&readable == readable {
				err = nil // what is missing is that its owner may write, and the owner is another user
			}
		}
		if err != nil {
			return fmt.Errorf("%s must be readable for the users of the containers: %w", path, err)
		}
	}
	return nil
}

// write replaces a file atomically, and prints its name when its text changes.
func (s secretsFolder) write(name, text string) error {
	path := filepath.Join(s.folder, name)
	if old, err := os.ReadFile(path); err == nil && string(old) == text {
		return s.share(name)
	}
	if err := os.MkdirAll(filepath.Dir(path), secretsFolderMode); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: another user owns the folder, which a container engine makes for a container that starts before there are secrets: remove it (sudo rmdir %s) and run headgate keys again",
			err, filepath.Dir(path))
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(secretsFileMode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return errors.Join(s.wrote(writtenFile{path}), s.share(name))
}
