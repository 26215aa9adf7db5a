package relay

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/watchfile"
)

// files are the files of a route. When one becomes unusable, its last good content stays in use.
type files struct {
	mu            sync.Mutex // held by read
	secrets       watchfile.Lines[signature.Key]
	authorization watchfile.Lines[string]
	content       atomic.Pointer[content]
}

// content is what the files of a route say.
type content struct {
	keys          []signature.Key
	authorization string  // "" for none
	problems      []error // why files cannot be used now
}

// fingerprints are those of the keys, sorted.
func (c content) fingerprints() []string {
	var all []string
	for _, k := range c.keys {
		all = append(all, k.Fingerprint())
	}
	slices.Sort(all)
	return all
}

func newFiles(r Route) *files {
	f := &files{
		secrets: watchfile.Lines[signature.Key]{Setting: "route " + r.Name + ": secret_files", Value: "secret", Names: r.SecretFiles, Parse: signature.ParseKey},
		authorization: watchfile.Lines[string]{
			Setting: "route " + r.Name + ": authorization_file", Value: "value", Parse: parseAuthorization,
		},
	}
	if r.AuthorizationFile != "" {
		f.authorization.Names = []string{r.AuthorizationFile}
	}
	f.content.Store(new(content))
	return f
}

func (f *files) current() content { return *f.content.Load() }

func (f *files) names() []string { return slices.Concat(f.secrets.Names, f.authorization.Names) }

// read reads the files again. It returns why one of them cannot be used.
func (f *files) read() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := f.current()
	keys, problems := f.secrets.Read()
	keys = slices.CompactFunc(slices.SortedStableFunc(slices.Values(keys), func(a, b signature.Key) int {
		return strings.Compare(a.Fingerprint(), b.Fingerprint())
	}), func(a, b signature.Key) bool { return a.Fingerprint() == b.Fingerprint() })
	switch {
	case len(keys) == 0 && problems == nil:
		problems = append(problems, fmt.Errorf("%s: no secret: write one whsec_… per line", f.secrets.Setting))
	case len(keys) > maxKeys:
		problems = append(problems, fmt.Errorf("%s: %d secrets are more than %d: remove those that no receiver verifies with", f.secrets.Setting, len(keys), maxKeys))
	case len(keys) > 0:
		next.keys = keys
	}
	values, wrong := f.authorization.Read()
	problems = append(problems, wrong...)
	switch {
	case len(values) == 1:
		next.authorization = values[0]
	case len(values) > 1:
		problems = append(problems, fmt.Errorf("%s: %d values: leave the one that is to be sent", f.authorization.Setting, len(values)))
	}
	next.problems = problems
	f.content.Store(&next)
	return errors.Join(problems...)
}

// parseAuthorization parses a value of the header Authorization. After Basic it may be user:password in plain text. Its errors name
// the cure and never the value.
func parseAuthorization(line string) (string, error) {
	scheme, rest, _ := strings.Cut(line, " ")
	switch {
	case strings.HasPrefix(strings.ToLower(line), "authorization:"):
		return "", errors.New("a value begins with the name of the header: remove the leading `Authorization:`")
	case strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }):
		return "", errors.New("a value has a character that no header can have: write it in ASCII, without tabs")
	case line[0] == '"' || line[0] == '\'':
		return "", errors.New("a value has quotes around it: give it without them")
	case strings.EqualFold(scheme, "basic") && strings.Contains(rest, ":"): // base64 contains no colon
		return scheme + " " + base64.StdEncoding.EncodeToString([]byte(strings.TrimSpace(rest))), nil
	}
	return line, nil
}
