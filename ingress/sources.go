package ingress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// maxKeys is more than the 50 endpoints that a Codat instance can have, each with a key that rotates.
const maxKeys = 128

// mostInFlight is more than a machine stores at a time, and few enough that their places cost no more than its memory.
const mostInFlight = 1_000_000

// SourceSettings are what the ingress is told of one Codat instance, in the file of sources. What is not said is as the
// flags say; the path is /webhooks/<name>.
type SourceSettings struct {
	Name               stream.Source `yaml:"name"`
	Path               string        `yaml:"path"`
	SecretFiles        []string      `yaml:"secret_files"`
	AuthorizationFiles []string      `yaml:"authorization_files"`
	ClientIDs          []string      `yaml:"client_ids"`
	Allow              []string      `yaml:"allow"`
	MaxBody            Size          `yaml:"max_body"`
	MaxInFlight        int           `yaml:"max_in_flight"`
	Tolerance          duration      `yaml:"tolerance"`
	UnprovenRate       *float64      `yaml:"unproven_rate"`

	// Only the flags have these, and other names for some of the above.
	secrets, authorizations []string
	single                  bool
}

// setting is the name of a setting where it was given.
func (s *SourceSettings) setting(flag, key string) string {
	if s.single {
		return flag
	}
	return fmt.Sprintf("source %s: %s", s.Name, key)
}

// single is the source that the flags describe.
func (s *Settings) single() SourceSettings {
	return SourceSettings{
		Name: s.Source, Path: s.Path,
		secrets: s.Secret, SecretFiles: s.SecretFile,
		authorizations: s.Authorization, AuthorizationFiles: s.AuthorizationFile,
		ClientIDs: s.ClientIDs, Allow: s.Allow,
		MaxBody: s.MaxBody, MaxInFlight: s.MaxInFlight, Tolerance: duration(s.Tolerance), UnprovenRate: &s.UnprovenRate,
		single: true,
	}
}

// The defaults of the flags for a single source.
const (
	defaultPath   = "/webhooks/codat"
	defaultSource = "codat"
)

// sources are those of the file, or the one of the flags.
func (s *Settings) sources() ([]SourceSettings, error) {
	if s.Sources == "" {
		return []SourceSettings{s.single()}, nil
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
			return nil, fmt.Errorf("--sources and --%s (or its variable) are both set: the file says it for each source; unset one of them", one.flag)
		}
	}
	all, err := readSources(s.Sources, SourceSettings{MaxBody: s.MaxBody, MaxInFlight: s.MaxInFlight, Tolerance: duration(s.Tolerance)})
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

// readSources reads the file of sources, each as unsaid is but for what the file says. An error says on which line it
// is, and of what stands there no more than the key and a size or time that is none.
func readSources(name string, unsaid SourceSettings) (all []SourceSettings, err error) {
	defer func() { // the parser does not expect a tag where a list belongs
		if recover() != nil {
			all, err = nil, errors.New("it cannot be read: write plain YAML, without tags (!)")
		}
	}()
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var file struct {
		Sources []ast.Node `yaml:"sources"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := decoder.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, placed(err)
	}
	if len(file.Sources) == 0 {
		return nil, errors.New("no source in it: give a list, sources: with a name and secret_files for each")
	}
	for i, node := range file.Sources {
		if node == nil {
			return nil, fmt.Errorf("source number %d is empty: give its name and secret_files", i+1)
		}
		one := unsaid
		if err := decoder.DecodeFromNode(node, &one); err != nil {
			return nil, placed(err)
		}
		if err := noneEmpty(node); err != nil {
			return nil, placed(err)
		}
		all = append(all, one)
	}
	if !errors.Is(decoder.Decode(new(any)), io.EOF) {
		return nil, errors.New("more than one document in it: give one list of sources")
	}
	return all, nil
}

// noneEmpty reports a key without a value: whoever wrote it did not mean that nothing is asked for.
func noneEmpty(source ast.Node) error {
	keys, ok := source.(*ast.MappingNode)
	if !ok {
		return nil
	}
	for _, key := range keys.Values {
		list, ok := key.Value.(*ast.SequenceNode)
		if key.Value.Type() == ast.NullType || ok && len(list.Values) == 0 {
			at := key.Key.GetToken()
			return &yaml.SyntaxError{Token: at, Message: at.Value + ": there is nothing in it: give it, or leave the key out"}
		}
	}
	return nil
}

// placed is an error of the decoder with its line and key, and without the names of our types.
func placed(err error) error {
	var at yaml.Error
	if !errors.As(err, &at) || at.GetToken() == nil {
		return err
	}
	message := strings.ReplaceAll(at.GetMessage(), "\n", " ")
	var mismatch *yaml.TypeError
	var overflow *yaml.OverflowError
	var node *yaml.UnexpectedNodeTypeError
	switch {
	case errors.As(err, &mismatch):
		message = keyOf(mismatch.Token) + ": " + wanted(mismatch.DstType)
	case errors.As(err, &overflow):
		message = keyOf(overflow.Token) + ": " + wanted(overflow.DstType)
	case errors.As(err, &node) && node.Expected == ast.SequenceType:
		message = keyOf(node.Token) + ": it is no list: write it as [a, b]"
	case errors.As(err, &node):
		message = keyOf(node.Token) + ": " + message
	}
	return fmt.Errorf("line %d: %s", at.GetToken().Position.Line, message)
}

// wanted is the cure for a value of another type.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int:
		return "it is no whole number: write it as 1024"
	case reflect.Float64:
		return "it is no number: write it as 20"
	default:
		return "it is no text: write it as one, in quotes where it looks like something else"
	}
}

// keyOf is the key before a value.
func keyOf(value *token.Token) string {
	for at := value; at != nil && at.Prev != nil; at = at.Prev {
		if at.Type == token.MappingValueType {
			return at.Prev.Value
		}
	}
	return "the file"
}

// A duration is a time in the file of sources.
type duration time.Duration

// UnmarshalYAML reads it. An error says where it stands.
func (d *duration) UnmarshalYAML(node ast.Node) error {
	at := node.GetToken()
	read, err := time.ParseDuration(at.Value)
	if err != nil {
		return &yaml.SyntaxError{Token: at, Message: fmt.Sprintf("%s: %q is no time: write it as 5m or 300s", keyOf(at), at.Value)}
	}
	*d = duration(read)
	return nil
}

// String is the time as Go and the flags write it.
func (d duration) String() string { return time.Duration(d).String() }

// UnmarshalYAML reads a size in the file of sources. An error says where it stands.
func (s *Size) UnmarshalYAML(node ast.Node) error {
	at := node.GetToken()
	if err := s.UnmarshalText([]byte(at.Value)); err != nil {
		return &yaml.SyntaxError{Token: at, Message: keyOf(at) + ": " + err.Error()}
	}
	return nil
}

// validate reports what a source cannot run with.
func (s *SourceSettings) validate() error {
	if err := s.Name.Validate(); err != nil {
		if s.single {
			return fmt.Errorf("--source: %w", err)
		}
		return err
	}
	if err := validatePath(s.Path); err != nil {
		return fmt.Errorf("%s: %w", s.setting("--path", "path"), err)
	}
	if s.MaxBody < 1 || s.MaxBody > 64<<20 {
		return fmt.Errorf("%s: %s is not between 1 byte and 64MiB: give 1MiB, the most that Svix sends", s.setting("--max-body", "max_body"), s.MaxBody)
	}
	if s.MaxInFlight < 1 {
		return fmt.Errorf("%s: %d requests are none: give 1 or more", s.setting("--max-in-flight", "max_in_flight"), s.MaxInFlight)
	}
	if s.MaxInFlight > mostInFlight {
		return fmt.Errorf("%s: %d requests are more than %d, and each has its place in memory from the start: give %[3]d at most", s.setting("--max-in-flight", "max_in_flight"), s.MaxInFlight, mostInFlight)
	}
	if s.Tolerance <= 0 {
		return fmt.Errorf("%s: %s is no time: give more than 0s", s.setting("--tolerance", "tolerance"), s.Tolerance)
	}
	if rate := *s.UnprovenRate; !(rate >= 0) || math.IsInf(rate, 1) {
		return fmt.Errorf("%s: %v requests a second are no limit that can be kept: give a number above 0, or 0 for no limit", s.setting("--unproven-rate", "unproven_rate"), *s.UnprovenRate)
	}
	if slices.Contains(s.ClientIDs, "") {
		return fmt.Errorf("%s: an id is empty: give it, or leave the setting out", s.setting("--client-id", "client_ids"))
	}
	return nil
}

// A source is a Codat instance, with what its files say now.
type source struct {
	SourceSettings
	allow        networks
	secretFiles  files[signature.Key]
	valueFiles   files[credential]
	values       []credential // not from files
	verifier     *signature.Verifier
	credentials  *Credentials
	receiver     *Receiver // nil before it is opened to requests
	metrics      *metrics
	fingerprints []string
}

func newSource(s SourceSettings) *source {
	return &source{
		SourceSettings: s,
		secretFiles:    files[signature.Key]{setting: s.setting("--secret-file", "secret_files"), what: "key", names: s.SecretFiles, parse: signature.ParseKey},
		valueFiles:     files[credential]{setting: s.setting("--authorization-file", "authorization_files"), what: "value", names: s.AuthorizationFiles, parse: parseAuthorization},
		verifier:       signature.NewVerifier(time.Duration(s.Tolerance), nil),
		credentials:    new(Credentials),
	}
}

// open makes the sources, with keys and values as their files are now. It reports the first thing that is wrong.
func (s *Settings) open() ([]*source, error) {
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
				return nil, fmt.Errorf("--sources %s: two are named %s: give each a name of its own", s.Sources, one.Name)
			case one.Path == other.Path:
				return nil, fmt.Errorf("--sources %s: %s and %s have the path %s: give each a path of its own", s.Sources, other.Name, one.Name, one.Path)
			}
		}
		if least := leastRoom(int64(one.MaxBody)); int64(s.MaxBytes) < least {
			cure := Size((least + 1023) >> 10 << 10) // in whole KiB it reads better
			return nil, fmt.Errorf("--max-bytes: %s have no room for a body of %s that is not proven yet: give %s or more", s.MaxBytes, one.MaxBody, cure)
		}
		src := newSource(one)
		if src.allow, err = parseNetworks(one.Allow); err != nil {
			return nil, fmt.Errorf("%s: %w", one.setting("--allow", "allow"), err)
		}
		for i, text := range one.authorizations {
			value, err := parseAuthorization(text)
			if err != nil {
				return nil, fmt.Errorf("--authorization, number %d: %w", i+1, err)
			}
			src.values = append(src.values, value)
		}
		all = append(all, src)
	}
	if problems := refresh(all, nil); len(problems) > 0 {
		return nil, problems[0]
	}
	return all, nil
}

// readKeys reads the keys of a source, as far as they can be read.
func (s *source) readKeys() (keys []signature.Key, problems []error) {
	for i, secret := range s.secrets {
		key, err := signature.ParseKey(secret)
		if err != nil {
			return nil, []error{fmt.Errorf("--secret, number %d: %w", i+1, err)}
		}
		keys = append(keys, key)
	}
	more, problems := s.secretFiles.read()
	keys = append(keys, more...)
	switch {
	case len(keys) == 0 && problems == nil && s.single:
		problems = append(problems, errors.New("no signing secret: give the endpoint's from Codat's Portal with --secret (HEADGATE_SECRET) or --secret-file (HEADGATE_SECRET_FILE)"))
	case len(keys) == 0 && problems == nil:
		problems = append(problems, fmt.Errorf("source %s: no secret_files: give the files of the endpoints' signing secrets", s.Name))
	case len(keys) > maxKeys:
		problems = append(problems, fmt.Errorf("%s: %d keys, %d at most: a Codat instance has 50 endpoints", s.setting("--secret-file", "secret_files"), len(keys), maxKeys))
	}
	return keys, problems
}
