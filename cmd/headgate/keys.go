package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/headgate/headgate/pkg/stream"
)

// keys makes the secrets of a deployment.
type keys struct {
	Folder string   `arg:"" help:"Where they go, as deploy/compose/secrets: a folder for each process, and one for the NATS servers."`
	Server []string `name:"server" env:"-" default:"nats-1,nats-2,nats-3" placeholder:"HOST" help:"The NATS servers of the cluster, as they reach each other; with a port if it is not 6222."`
	Team   []string `name:"team" env:"-" placeholder:"NAME" help:"Also a key for the account of this team, which reads events."`
}

// Validate reports a server that is no host, and a team whose durable consumer could not be named after it or would be
// another's.
func (c *keys) Validate() error {
	for _, name := range c.Server {
		if name == "" || strings.ContainsAny(name, " /@\"") {
			return fmt.Errorf("--server: %q is no host: give it as nats-1 or nats-1:6222", name)
		}
	}
	for _, name := range c.Team {
		if err := stream.ValidateWorker(name); err != nil {
			return fmt.Errorf("--team: %w", err)
		}
		if slices.Contains(slices.Concat(roles(), notUsers), name) {
			return fmt.Errorf("--team: %s is taken by Headgate itself: choose another", name)
		}
	}
	return nil
}

// roles are the users of a deployment: the processes, by the names that deploy/nats/accounts.conf has for them.
func roles() []string {
	all := []string{"ingress", "provision", "operator", "watch", "system"}
	for _, w := range builtin {
		all = append(all, w.shape.Name)
	}
	return all
}

// notUsers are the folders beside those of the users.
var notUsers = []string{"nats", "routes", "webhook", "grafana"}

// Run makes what is missing and keeps what is there. The folder is closed to others, so that the files in it need not
// be: processes in containers read them as users of their own.
func (c *keys) Run(_ context.Context, t *terminal) error {
	if err := os.MkdirAll(c.Folder, 0o700); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	if err := os.Chmod(c.Folder, 0o700); err != nil {
		return fmt.Errorf("close the folder to others: %w", err)
	}
	s := secrets{c.Folder, t}
	before, err := filepath.Glob(filepath.Join(c.Folder, "*", "nkey"))
	if err != nil {
		return err
	}
	users := roles()
	for _, seed := range before {
		users = append(users, filepath.Base(filepath.Dir(seed)))
	}
	users = append(users, c.Team...)

	known := "# Public keys: who may log in. Made by headgate keys from the seeds, which are for the processes.\n"
	for i, name := range users {
		if slices.Contains(users[:i], name) {
			continue
		}
		public, err := s.nkey(name)
		if err != nil {
			return fmt.Errorf("key of %s: %w", name, err)
		}
		known += fmt.Sprintf("%s_NKEY: %s\n", strings.ToUpper(strings.ReplaceAll(name, "-", "_")), public)
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
	return errors.Join(s.write("nats/keys.conf", known), s.write("nats/routes.conf", c.routes(password)))
}

// routes is how the servers of the cluster find each other and prove that they belong to it.
func (c *keys) routes(password string) string {
	text := "# Made by headgate keys.\nauthorization: { user: routes, password: \"" + password + "\" }\nroutes: [\n"
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
	rand.Read(b) // it never fails
	return b
}

// random is a secret that needs no quoting anywhere.
func random() string { return hex.EncodeToString(randomBytes()) }

// secrets are the files of a folder.
type secrets struct {
	folder string
	t      *terminal
}

// nkey makes the key of a user if there is none, and returns its public half.
func (s secrets) nkey(name string) (string, error) {
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
		return "", fmt.Errorf("%s holds no seed: remove it, and a new one is made: %w", filepath.Join(s.folder, file), err)
	}
	return user.PublicKey()
}

// ensure writes a file if there is none, and returns what is in it.
func (s secrets) ensure(name string, fresh func() string) (string, error) {
	text, err := os.ReadFile(filepath.Join(s.folder, name))
	if errors.Is(err, fs.ErrNotExist) {
		made := fresh()
		return made, s.write(name, made+"\n")
	}
	return strings.TrimSpace(string(text)), err
}

// write writes a file, whole or not at all.
func (s secrets) write(name, text string) error {
	path := filepath.Join(s.folder, name)
	if old, err := os.ReadFile(path); err == nil && string(old) == text {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o444), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	_, err = fmt.Fprintf(s.t.out, "made %s\n", path)
	return err
}
