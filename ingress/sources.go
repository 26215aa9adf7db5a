package ingress

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/headgate/headgate/pkg/clientip"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/watchfile"
	"github.com/headgate/headgate/pkg/yamlfile"
)

// maxKeys is more than twice the 50 endpoints that a Codat instance can have, whose keys rotate.
const maxKeys = 128

// maxMaxInFlight is more than a machine stores at a time. Each request has memory in the publisher from the start.
const maxMaxInFlight = 1_000_000

// sourceSettings are the settings of one Codat instance in the file of sources. A setting that it does not have is as the
// flags say; the default path is /webhooks/<name>.
type sourceSettings struct {
	Name               stream.Source     `yaml:"name"`
	Path               string            `yaml:"path"`
	SecretFiles        []string          `yaml:"secret_files"`
	AuthorizationFiles []string          `yaml:"authorization_files"`
	ClientIDs          []string          `yaml:"client_ids"`
	Allow              []string          `yaml:"allow"`
	MaxBody            yamlfile.ByteSize `yaml:"max_body"`
	MaxInFlight        int               `yaml:"max_in_flight"`
	Tolerance          yamlfile.Duration `yaml:"tolerance"`
	UnprovenRate       *float64          `yaml:"unproven_rate"`

	// From the flags only. The flags have other names for some of the above.
	secrets, authorizations []string
	fromFlags               bool
}

// setting returns the name of a setting in the place that it came from.
func (s *sourceSettings) setting(flag, key string) string {
	if s.fromFlags {
		return flag
	}
	return fmt.Sprintf("source %s: %s", s.Name, key)
}

// sourceFromFlags returns the source that the flags describe.
func (s *Settings) sourceFromFlags() sourceSettings {
	return sourceSettings{
		Name: s.Source, Path: s.Path,
		secrets: s.Secret, SecretFiles: s.SecretFile,
		authorizations: s.Authorization, AuthorizationFiles: s.AuthorizationFile,
		ClientIDs: s.ClientIDs, Allow: s.Allow,
		MaxBody: yamlfile.ByteSize(s.MaxBody), MaxInFlight: s.MaxInFlight, Tolerance: yamlfile.Duration(s.Tolerance), UnprovenRate: &s.UnprovenRate,
		fromFlags: true,
	}
}

// Defaults of the flags for a single source.
const (
	defaultPath   = "/webhooks/codat"
	defaultSource = "codat"
)

// sources returns the sources of the file, or the one of the flags.
func (s *Settings) sources() ([]sourceSettings, error) {
	if s.Sources == "" {
		return []sourceSettings{s.sourceFromFlags()}, nil
	}
	for _, one := range []struct {
		flag  string
		given bool
	}{
		{"path", s.Path != "" && s.Path != defaultPath},
		{"source", s.Source != "" && s.Source != defaultSource},
		{"secret", len(s.Secret) > 0},
		{"secret-file", len(s.SecretFile) > 0},
		{"authorization", len(s.Authorization) > 0},
		{"authorization-file", len(s.AuthorizationFile) > 0},
		{"client-id", len(s.ClientIDs) > 0},
		{"allow", len(s.Allow) > 0},
	} {
		if one.given {
			return nil, fmt.Errorf("--sources and --%s (or its variable) are both set: set it in the file of sources, and unset one of the two", one.flag)
		}
	}
	all, err := yamlfile.ReadList(s.Sources, yamlfile.List{Noun: "source", Required: "name and secret_files"}, sourceSettings{MaxBody: yamlfile.ByteSize(s.MaxBody), MaxInFlight: s.MaxInFlight, Tolerance: yamlfile.Duration(s.Tolerance)})
	if err != nil {
		return nil, fmt.Errorf("--sources %s: %w", s.Sources, err)
	}
	for i := range all {
		one := &all[i]
		if one.Path == "" {
			one.Path = "/webhooks/" + string(one.Name)
		}
		if one.UnprovenRate == nil {
			one.UnprovenRate = &s.UnprovenRate
		}
	}
	return all, nil
}

// SourceNames returns the names of the sources, of which there is one at least. An error names the setting and the cure.
func (s *Settings) SourceNames() ([]stream.Source, error) {
	all, err := s.sources()
	if err != nil {
		return nil, err
	}
	names := make([]stream.Source, len(all))
	for i, one := range all {
		names[i] = one.Name
	}
	return names, nil
}

// validate reports the first invalid setting of a source.
func (s *sourceSettings) validate() error {
	if err := s.Name.Validate(); err != nil {
		if s.fromFlags {
			return fmt.Errorf("--source: %w", err)
		}
		return err
	}
	if err := validatePath(s.Path); err != nil {
		return fmt.Errorf("%s: %w", s.setting("--path", "path"), err)
	}
	if s.MaxBody < 1 || s.MaxBody > 64<<20 {
		return fmt.Errorf("%s must be between 1 byte and 64MiB (got %s): Svix sends at most 1MiB", s.setting("--max-body", "max_body"), s.MaxBody)
	}
	if s.MaxInFlight < 1 {
		return fmt.Errorf("%s must be at least 1 (got %d)", s.setting("--max-in-flight", "max_in_flight"), s.MaxInFlight)
	}
	if s.MaxInFlight > maxMaxInFlight {
		return fmt.Errorf("%s must be at most %d (got %d)", s.setting("--max-in-flight", "max_in_flight"), maxMaxInFlight, s.MaxInFlight)
	}
	if s.Tolerance <= 0 {
		return fmt.Errorf("%s must be greater than 0s (got %s)", s.setting("--tolerance", "tolerance"), s.Tolerance)
	}
	if rate := *s.UnprovenRate; !(rate >= 0) || math.IsInf(rate, 1) {
		return fmt.Errorf("%s must be a number of requests a second, or 0 for no limit (got %v)", s.setting("--unproven-rate", "unproven_rate"), *s.UnprovenRate)
	}
	return nil
}

// A source is a Codat instance, with the current content of its files.
type source struct {
	sourceSettings
	allow        clientip.Networks
	secretFiles  watchfile.Lines[signature.Key]
	valueFiles   watchfile.Lines[credential]
	values       []credential // not from files
	verifier     *signature.Verifier
	credentials  *credentials
	handler      *handler // nil until the server has one
	fingerprints []string
}

func newSource(s sourceSettings) *source {
	return &source{
		sourceSettings: s,
		secretFiles:    watchfile.Lines[signature.Key]{Setting: s.setting("--secret-file", "secret_files"), Value: "key", Names: s.SecretFiles, Parse: signature.ParseKey},
		valueFiles:     watchfile.Lines[credential]{Setting: s.setting("--authorization-file", "authorization_files"), Value: "value", Names: s.AuthorizationFiles, Parse: parseAuthorization},
		verifier:       signature.NewVerifier(time.Duration(s.Tolerance), nil),
		credentials:    new(credentials),
	}
}

// openSources returns the sources with the current content of their files, or the first error.
func (s *Settings) openSources() ([]*source, error) {
	settings, err := s.sources()
	if err != nil {
		return nil, err
	}
	var all []*source
	for _, one := range settings {
		if err := one.validate(); err != nil {
			return nil, err
		}
		for _, other := range all {
			switch {
			case one.Name == other.Name:
				return nil, fmt.Errorf("--sources %s: two sources have the name %s: give each its own", s.Sources, one.Name)
			case one.Path == other.Path:
				return nil, fmt.Errorf("--sources %s: the sources %s and %s have the path %s: give each its own", s.Sources, other.Name, one.Name, one.Path)
			}
		}
		if least := minBudget(int64(one.MaxBody)); int64(s.MaxBytes) < least {
			return nil, fmt.Errorf("--max-bytes must be at least %s for bodies of %s (got %s)", process.ByteSize((least+1<<20-1)>>20<<20), one.MaxBody, s.MaxBytes)
		}
		src := newSource(one)
		if src.allow, err = parseNetworks(one.Allow); err != nil {
			return nil, fmt.Errorf("%s: %w", one.setting("--allow", "allow"), err)
		}
		if src.ClientIDs, err = parseAll(one.ClientIDs, parseClientID); err != nil {
			return nil, fmt.Errorf("%s %w", one.setting("--client-id", "client_ids"), err)
		}
		if src.values, err = parseAll(one.authorizations, parseAuthorization); err != nil {
			return nil, fmt.Errorf("--authorization %w", err)
		}
		all = append(all, src)
	}
	if problems := refresh(all, nil); len(problems) > 0 {
		return nil, problems[0]
	}
	return all, nil
}

// parseAll parses each text. An error names the number of the text.
func parseAll[T any](texts []string, parse func(string) (T, error)) ([]T, error) {
	var values []T
	for i, text := range texts {
		value, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("number %d: %w", i+1, err)
		}
		values = append(values, value)
	}
	return values, nil
}

// readKeys reads the keys of a source. It returns those that can be read beside the problems.
func (s *source) readKeys() (keys []signature.Key, problems []error) {
	for i, secret := range s.secrets {
		key, err := signature.ParseKey(secret)
		if err != nil {
			return nil, []error{fmt.Errorf("--secret number %d: %w", i+1, err)}
		}
		keys = append(keys, key)
	}
	more, problems := s.secretFiles.Read()
	keys = append(keys, more...)
	switch {
	case len(keys) == 0 && problems == nil && s.fromFlags:
		problems = append(problems, errors.New("no signing secret: give the endpoint's from Codat's Portal with --secret (HEADGATE_SECRET) or --secret-file (HEADGATE_SECRET_FILE)"))
	case len(keys) == 0 && problems == nil:
		problems = append(problems, fmt.Errorf("source %s: no secret_files: give the files with the signing secrets of its endpoints", s.Name))
	case len(keys) > maxKeys:
		problems = append(problems, fmt.Errorf("%s: %d keys are more than %d: a Codat instance has at most 50 endpoints", s.setting("--secret-file", "secret_files"), len(keys), maxKeys))
	}
	return keys, problems
}
