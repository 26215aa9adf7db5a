package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/headgate/headgate/pkg/stream"
)

// keys makes the secrets of a deployment.
type keys struct {
	Folder string   `arg:"" help:"Where they go, as deploy/compose/secrets: a folder for each process, and one for the NATS servers."`
	Team   []string `name:"team" env:"-" placeholder:"NAME" help:"Also a key for the account of this team, which reads events."`
}

// Validate reports a team whose durable consumer could not be named after it, or would be a worker's.
func (c *keys) Validate() error {
	for _, name := range c.Team {
		if err := stream.ValidateWorker(name); err != nil {
			return fmt.Errorf("--team: %w", err)
		}
		for _, r := range roles() {
			if name == r {
				return fmt.Errorf("--team: %s is the name of a role: choose another", name)
			}
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

// Run makes what is missing and keeps what is there. The folder is closed to others, so the files in it are not:
// processes in containers read them as users of their own.
func (c *keys) Run(_ context.Context, t *terminal) error {
	if err := os.MkdirAll(c.Folder, 0o700); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	if err := os.Chmod(c.Folder, 0o700); err != nil {
		return fmt.Errorf("close the folder to others: %w", err)
	}
	s := secrets{folder: c.Folder, t: t}
	var public strings.Builder
	public.WriteString("# Public keys: who may log in. Made by headgate keys from the seeds beside this folder.\n")
	teams, err := s.teams()
	if err != nil {
		return err
	}
	for _, name := range distinct(roles(), teams, c.Team) {
		key, err := s.nkey(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(&public, "%s_NKEY: %s\n", strings.ToUpper(strings.ReplaceAll(name, "-", "_")), key)
	}
	return errors.Join(
		s.write("nats/keys.conf", public.String()),
		s.ensure("nats/routes.conf", func() string {
			return fmt.Sprintf("authorization: { user: routes, password: %q }\n", random(hex.EncodeToString))
		}),
		s.ensure("nats/encryption.conf", func() string { return fmt.Sprintf("key: %q\n", random(hex.EncodeToString)) }),
		s.ensure("webhook/key", newSecret),
		s.ensure("grafana/password", func() string { return random(hex.EncodeToString) }),
	)
}

// distinct is all names, each once, in the order in which they come first.
func distinct(lists ...[]string) []string {
	var all []string
	seen := map[string]bool{}
	for _, list := range lists {
		for _, name := range list {
			if !seen[name] {
				seen[name] = true
				all = append(all, name)
			}
		}
	}
	return all
}

// random is a secret of 32 bytes as text.
func random(text func([]byte) string) string {
	secret := make([]byte, 32)
	rand.Read(secret) // it never fails
	return text(secret)
}

// secrets are the files of a folder.
type secrets struct {
	folder string
	t      *terminal
}

// teams are those that have a key from an earlier time.
func (s secrets) teams() ([]string, error) {
	seeds, err := filepath.Glob(filepath.Join(s.folder, "*", "nkey"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, seed := range seeds {
		names = append(names, filepath.Base(filepath.Dir(seed)))
	}
	return names, nil
}

// nkey makes the key of a user if there is none, and returns its public half.
func (s secrets) nkey(name string) (string, error) {
	file := name + "/nkey"
	var failure error
	if err := s.ensure(file, func() string {
		user, err := nkeys.CreateUser()
		if err != nil {
			failure = err
			return ""
		}
		seed, err := user.Seed()
		failure = err
		return string(seed)
	}); err != nil || failure != nil {
		return "", fmt.Errorf("key of %s: %w", name, errors.Join(err, failure))
	}
	seed, err := os.ReadFile(filepath.Join(s.folder, file))
	if err != nil {
		return "", fmt.Errorf("key of %s: %w", name, err)
	}
	user, err := nkeys.FromSeed(bytes.TrimSpace(seed))
	if err != nil {
		return "", fmt.Errorf("key of %s: %s holds no seed: remove it, and a new one is made: %w", name, filepath.Join(s.folder, file), err)
	}
	return user.PublicKey()
}

// ensure writes a file if there is none.
func (s secrets) ensure(name string, text func() string) error {
	_, err := os.Stat(filepath.Join(s.folder, name))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.write(name, strings.TrimSuffix(text(), "\n")+"\n")
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
	fmt.Fprintf(s.t.out, "made %s\n", path)
	return nil
}
