package doctor

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/watchfile"
)

// A Program describes the program that made a report.
type Program struct {
	Version  string   `json:"version"`
	Go       string   `json:"go"`
	Platform string   `json:"platform"`
	Settings []string `json:"settings"` // names of the environment variables that are set, without their values
}

// bundleReadme is the first file of an archive.
const bundleReadme = `What headgate doctor has seen, for a support case.

report.json     the result of each check
snapshot.json   sizes, counts and times of streams, consumers, workers and servers
provision.json  what headgate provision would change
program.json    the version, and the names of the variables that are set

It has no body and no header of an event, no key or password, no name of a company, and no text that a handler or a service wrote.
Names of streams, servers, workers and event types, addresses and paths of files are in it: read it before you send it.
`

// WriteBundle writes a report as an archive (tar, gzip) for a support case. It has no payload and no text from outside of Headgate
// and NATS, and what could be a key is replaced. o are the options of the report: their files say which texts are secrets.
func (r *Report) WriteBundle(w io.Writer, o Options, p Program) error {
	scrub := newScrubber(o)
	compressed := gzip.NewWriter(w)
	archive := tar.NewWriter(compressed)
	write := func(name string, text []byte) error {
		text = scrub.scrub(text)
		h := &tar.Header{Name: "headgate-doctor/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: r.At.Truncate(time.Second)}
		if err := archive.WriteHeader(h); err != nil {
			return err
		}
		_, err := archive.Write(text)
		return err
	}
	if err := write("README.txt", []byte(bundleReadme)); err != nil {
		return err
	}
	for _, f := range []struct {
		name  string
		value any
	}{{"report.json", r.withoutDetails()}, {"snapshot.json", r.bundled()}, {"provision.json", append([]stream.Change{}, r.changes...)}, {"program.json", p}} {
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(f.value); err != nil {
			return err
		}
		if err := write(f.name, text.Bytes()); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), compressed.Close())
}

// withoutDetails is the report without what foreign programs have written.
func (r *Report) withoutDetails() Report {
	without := *r
	without.Results = slices.Clone(r.Results)
	for i := range without.Results {
		without.Results[i].Detail = ""
	}
	return without
}

// bundled is the snapshot without what foreign programs have written.
func (r *Report) bundled() inspect.Snapshot {
	s := r.snapshot
	s.Servers = slices.Clone(s.Servers)
	for i := range s.Servers {
		if s.Servers[i].Problem != "" {
			s.Servers[i].Problem = "(left out)"
		}
	}
	return s
}

// patterns match what could be a key, a token or a password.
var patterns = regexp.MustCompile(`(?i:wh(sec|sk|pk)_[\w+/=-]+|(bearer|basic)\s+[^\s"]+)|\bS[A-Z][A-Z2-7]{40,}|\beyJ[\w-]+(\.[\w-]*)*|-----BEGIN[^-]*PRIVATE KEY-----[^-]*|://[^/@\s"]+@`)

// A scrubber replaces secrets.
type scrubber struct{ secrets []string }

// newScrubber returns one that knows the secrets of the settings and of the files that they name.
func newScrubber(o Options) scrubber {
	var s scrubber
	for _, server := range strings.Split(o.NATS.NATSURL, ",") {
		if u, err := url.Parse(strings.TrimSpace(server)); err == nil && u.User != nil {
			password, _ := u.User.Password()
			s.add(u.User.Username(), password)
		}
	}
	files := append([]string{o.NATS.NATSCreds, o.NATS.NATSNKey, o.NATS.NATSKey, o.CodatKeyFile}, o.SecretFiles...)
	for _, name := range files {
		if name == "" {
			continue
		}
		if text, err := watchfile.ReadFile(name); err == nil {
			s.add(strings.Split(string(text), "\n")...)
		}
	}
	slices.SortFunc(s.secrets, func(a, b string) int { return len(b) - len(a) }) // one can be a part of another
	return s
}

// add adds secrets, without short ones, which would replace parts of words.
func (s *scrubber) add(secrets ...string) {
	const short = 6
	for _, secret := range secrets {
		if secret = strings.TrimSpace(secret); len(secret) >= short && !strings.HasPrefix(secret, "-----") {
			s.secrets = append(s.secrets, secret)
		}
	}
}

func (s scrubber) text(text string) string { return string(s.scrub([]byte(text))) }

func (s scrubber) scrub(text []byte) []byte {
	for _, secret := range s.secrets {
		text = bytes.ReplaceAll(text, []byte(secret), []byte("(secret)"))
	}
	return patterns.ReplaceAll(text, []byte("(secret)"))
}
