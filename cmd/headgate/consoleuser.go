package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/headgate/headgate/pkg/console"
	"github.com/headgate/headgate/pkg/process"
)

type consoleUserCmd struct {
	Name   string   `arg:"" help:"The user's name."`
	Rights []string `name:"rights" env:"-" default:"view" placeholder:"RIGHT" help:"What the user may do: view the pages, see the bodies of events (payload), act (operate)."`
	Token  bool     `name:"token" env:"-" help:"Make a token in place of a password: for programs, in the header Authorization as Bearer."`
}

// Validate returns an error for a name or a right that no user can have.
func (c *consoleUserCmd) Validate() error {
	if err := console.ValidateUserName(c.Name); err != nil {
		return err
	}
	if _, err := console.ParseRights(c.Rights); err != nil {
		return fmt.Errorf("--rights: %w", err)
	}
	return nil
}

// Run prints the entry. The password comes from a terminal, which does not show it, or is the first line of the input; when it is
// empty, one is made. What is made is printed once, beside the entry.
func (c *consoleUserCmd) Run(_ context.Context, t *terminal) error {
	if c.Token {
		token := newCredential()
		fmt.Fprintf(t.err, "token of %s, which is stored nowhere: %s\n", c.Name, token)
		return c.print(t.out, "token", console.HashToken(token))
	}
	password, err := readPassword(t)
	if err != nil {
		return err
	}
	if password == "" {
		password = newCredential()
		fmt.Fprintf(t.err, "password of %s, which is stored nowhere: %s\n", c.Name, password)
	}
	hash, err := console.HashPassword(password)
	if err != nil {
		return process.Misconfigured(err)
	}
	return c.print(t.out, "password", hash)
}

func (c *consoleUserCmd) print(w io.Writer, key, hash string) error {
	_, err := fmt.Fprintf(w, "  - name: %s\n    %s: %q\n    rights: [%s]\n", c.Name, key, hash, strings.Join(c.Rights, ", "))
	return err
}

// newCredential returns a password or token of 192 random bits.
func newCredential() string {
	b := make([]byte, 24)
	rand.Read(b) // it never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// readPassword returns a password, or "" when one is to be made.
func readPassword(t *terminal) (string, error) {
	if !t.asks() {
		line, err := bufio.NewReader(t.in).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return strings.TrimRight(line, "\r\n"), err
	}
	var texts [2]string
	for i, question := range []string{"Password (empty to have one made): ", "Once more: "} {
		fmt.Fprint(t.err, question)
		text, err := term.ReadPassword(int(t.in.(*os.File).Fd()))
		fmt.Fprintln(t.err)
		if err != nil {
			return "", err
		}
		if texts[i] = string(text); texts[0] == "" {
			return "", nil
		}
	}
	if texts[0] != texts[1] {
		return "", process.Misconfigured(errors.New("the two passwords differ"))
	}
	return texts[0], nil
}
