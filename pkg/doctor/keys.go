package doctor

import (
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/watchfile"
)

var keyChecks = []check{
	{"HG-KEY-001", "files of the signing secrets", "each line is a secret of at least 24 bytes", "headgatebadfile", nothing, (*facts).keyFiles},
	{"HG-KEY-002", "strength of the signing secrets", "16 different bytes, and no published example", "doctor-settings-and-keys", nothing, (*facts).keyStrength},
	{"HG-KEY-003", "age of the signing secrets", "the file was changed in the last 365 days", "rotate", nothing, (*facts).keyAge},
	{"HG-KEY-004", "signing secrets in use", "each has verified a request since the ingress started, once one has", "headgateunusedkey", processes, (*facts).keysInUse},
}

// A keyFile is a file, or a folder of files, of signing secrets. It has no secret.
type keyFile struct {
	name     string
	keys     []keyTraits
	problem  string // without a value
	modified time.Time
}

// keyTraits are what is said of a key.
type keyTraits struct {
	fingerprint string
	variety     int // different bytes
}

// exampleKeys are the fingerprints of secrets in the documentation of Svix and of Standard Webhooks.
var exampleKeys = fingerprints("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_plJ3nmyCDGBKInavdOK15jsl", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")

func fingerprints(secrets ...string) (all []string) {
	for _, s := range secrets {
		if k, err := signature.ParseKey(s); err == nil {
			all = append(all, k.Fingerprint())
		}
	}
	return all
}

// readKeyFiles reads the files of signing secrets as the ingress does.
func readKeyFiles(names []string) []keyFile {
	var all []keyFile
	for _, name := range names {
		k := keyFile{name: name}
		lines := watchfile.Lines[keyTraits]{Setting: "--secret-file", Value: "key", Names: []string{name}, Parse: parseKey}
		values, problems := lines.Read()
		k.keys = values
		switch {
		case len(problems) > 0:
			k.problem = problems[0].Error()
		case len(values) == 0:
			k.problem = "--secret-file " + name + " has no secret: put the signing secret of the endpoint into it"
		}
		if info, err := os.Stat(name); err == nil {
			k.modified = info.ModTime()
		}
		all = append(all, k)
	}
	return all
}

func parseKey(line string) (keyTraits, error) {
	k, err := signature.ParseKey(line)
	if err != nil {
		return keyTraits{}, err
	}
	_, encoded, _ := strings.Cut(strings.TrimSpace(line), "_")
	secret, _ := base64.StdEncoding.DecodeString(encoded) // ParseKey has decoded it
	slices.Sort(secret)
	return keyTraits{k.Fingerprint(), len(slices.Compact(secret))}, nil
}

const (
	noKeyFile = "no --secret-file names the signing secrets"
	noKeyRead = "no --secret-file can be read"
)

func (f *facts) keyFiles() finding {
	if len(f.keys) == 0 {
		return skip(noKeyFile)
	}
	n := 0
	for _, k := range f.keys {
		if k.problem != "" {
			return fail("cannot be used", k.problem)
		}
		n += len(k.keys)
	}
	return ok(fmt.Sprintf("%d in %d files", n, len(f.keys)))
}

func (f *facts) keyStrength() finding {
	const minVariety = 16
	var weak []string
	n := 0
	for _, file := range f.keys {
		for _, k := range file.keys {
			if n++; k.variety < minVariety || slices.Contains(exampleKeys, k.fingerprint) {
				weak = append(weak, k.fingerprint)
			}
		}
	}
	switch {
	case len(f.keys) == 0:
		return skip(noKeyFile)
	case n == 0:
		return skip(noKeyRead)
	case len(weak) > 0:
		return fail("can be guessed: "+listed(weak), "make a new secret for the endpoint in Codat's Portal and put it beside this one, then remove this one")
	}
	return ok(fmt.Sprintf("%d cannot be guessed", n))
}

func (f *facts) keyAge() finding {
	var oldest time.Duration
	for _, k := range f.keys {
		if !k.modified.IsZero() {
			oldest = max(oldest, f.now.Sub(k.modified))
		}
	}
	switch known := slices.ContainsFunc(f.keys, func(k keyFile) bool { return !k.modified.IsZero() }); {
	case len(f.keys) == 0:
		return skip(noKeyFile)
	case !known:
		return skip(noKeyRead)
	}
	return graded(false, oldest > keyAge, "the oldest file was changed "+span(oldest)+" ago", "rotate the signing secret of the endpoint")
}

// keysInUse compares what each key of the ingresses has verified, and whether they have the keys of the files.
func (f *facts) keysInUse() finding {
	matches := map[string]float64{}
	total := 0.0
	for _, m := range f.metrics("headgate_ingress_key_matches_total") {
		matches[m.Labels["key"]] += m.Value
		total += m.Value
	}
	if len(matches) == 0 {
		return skip("no --metrics-url is that of an ingress")
	}
	var unknown, unused []string
	for _, file := range f.keys {
		for _, k := range file.keys {
			if _, has := matches[k.fingerprint]; !has {
				unknown = append(unknown, k.fingerprint)
			}
		}
	}
	for k, n := range matches {
		if n == 0 && total > 0 {
			unused = append(unused, k)
		}
	}
	switch {
	case len(unknown) > 0:
		return warn("not in an ingress: "+listed(unknown), "mount the folder of the file, not the file alone, so that the ingress sees the new one")
	case len(unused) > 0:
		return warn("verified nothing: "+listed(unused), "remove the secret after a rotation; otherwise its endpoint is silent, or the secret is wrong")
	}
	return ok(fmt.Sprintf("%d secrets, %.0f requests verified", len(matches), total))
}
