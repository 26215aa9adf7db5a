package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/watchfile"
)

// keyFile is the API key in a file. When the file becomes unusable, the last key that it had stays in use.
type keyFile struct {
	mu      sync.Mutex
	lines   watchfile.Lines[string]
	key     string
	problem error
}

// open reads the key for the first time.
func (k *keyFile) open(name string) error {
	k.lines = watchfile.Lines[string]{Setting: "--codat-key-file", Value: "key", Names: []string{name}, Parse: parseKey}
	_, err := k.read()
	return err
}

// read reads the file again. It reports whether the key is another than before.
func (k *keyFile) read() (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	values, problems := k.lines.Read()
	k.problem = errors.Join(problems...)
	switch {
	case k.problem != nil:
	case len(values) != 1:
		k.problem = fmt.Errorf("--codat-key-file %s: has %d keys: leave the one that is to be used", k.lines.Names[0], len(values))
	default:
		changed = k.key != values[0]
		k.key = values[0]
	}
	return changed, k.problem
}

func (k *keyFile) current() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.key
}

// WatchKey reads the file of the API key again when it changes, until ctx ends. It logs each change and each new problem.
func (c *Client) WatchKey(ctx context.Context, log *zap.Logger) {
	last := ""
	watchfile.Watch(ctx, c.keys.lines.Names, watchfile.PollInterval, log, func() {
		switch changed, err := c.keys.read(); {
		case err != nil:
			if err.Error() != last {
				log.Error("the file of Codat's API key cannot be used: its previous content stays in use", zap.Error(err))
			}
			last = err.Error()
		case changed:
			log.Info("Codat's API key reloaded")
			fallthrough
		default:
			last = ""
		}
	})
}

// KeyProblem returns why the file of the API key cannot be used now, and nil when it can. Calls are made with its previous content.
func (c *Client) KeyProblem() error {
	c.keys.mu.Lock()
	defer c.keys.mu.Unlock()
	return c.keys.problem
}

// parseKey reads an API key. Its errors name the cure and never the key.
func parseKey(line string) (string, error) {
	if strings.HasPrefix(strings.ToLower(line), "basic ") {
		return "", errors.New("begins with Basic: give the API key, not the authorization header")
	}
	for _, r := range line {
		if r <= ' ' || r > '~' {
			return "", errors.New("has white space or a character outside of ASCII in it: give the API key alone")
		}
	}
	return line, nil
}
