package ingress

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// Settings are all that the ingress can be told.
type Settings struct {
	process.Settings
	stream.NATS

	Listen string        `name:"listen" default:":8080" help:"Address (host:port) of the public listener, to which Codat posts."`
	Path   string        `name:"path" default:"/webhooks/codat" help:"Path of the webhook; every other one is answered 404."`
	Source stream.Source `name:"source" default:"codat" help:"Name of the Codat instance: the first part of every subject, and in capitals of every stream."`

	Secret     []string `name:"secret" placeholder:"KEY" help:"Signing secret of the endpoint as Codat's Portal shows it. Give all while they rotate. Others can read the flag in the list of processes: prefer the environment, or a file."`
	SecretFile []string `name:"secret-file" placeholder:"FILE" help:"File of signing secrets, one on a line; lines that begin with # are comments."`

	MaxBody     Size          `name:"max-body" default:"1MiB" help:"Largest body, in bytes or with KiB or MiB; a larger one is answered 413. Svix sends 1MiB at most."`
	Tolerance   time.Duration `name:"tolerance" default:"5m" help:"How far the time of a signature may be from this clock, before or after."`
	MaxInFlight int           `name:"max-in-flight" default:"1024" help:"Requests that are received or stored at a time; one more is answered 503."`

	ReadHeaderTimeout time.Duration `name:"read-header-timeout" default:"3s" help:"Time for the headers of a request to come."`
	ReadTimeout       time.Duration `name:"read-timeout" default:"5s" help:"Time for a whole request to come; a slower body is answered 408."`
	IdleTimeout       time.Duration `name:"idle-timeout" default:"2m" help:"Time that a connection may be silent between two requests. Longer than the balancer's in front of it."`
	PublishTimeout    time.Duration `name:"publish-timeout" default:"8s" help:"Time from when a request came until its event must be stored; then it is answered 503. Codat waits 15s."`
	DrainDelay        time.Duration `name:"drain-delay" default:"5s" help:"Time to go on receiving after SIGTERM, while not ready, until balancers have noticed."`

	Provision bool `name:"provision" help:"Make the streams of the source where they are missing, with the defaults of headgate provision."`
}

// sender is how long Codat waits for an answer, and margin what the way there and back may take of it.
const (
	sender = 15 * time.Second
	margin = time.Second
)

// maxHeaderBytes is room for every header that Codat lets a user set, and no more.
const maxHeaderBytes = 32 << 10

// Validate reports the first setting that the ingress cannot run with.
func (s *Settings) Validate() error {
	if err := s.Settings.Validate(); err != nil {
		return err
	}
	if err := s.NATS.Validate(); err != nil {
		return err
	}
	if err := process.ValidateListen("--listen", s.Listen); err != nil {
		return err
	}
	if err := validatePath(s.Path); err != nil {
		return err
	}
	if err := s.Source.Validate(); err != nil {
		return fmt.Errorf("--source: %w", err)
	}
	if s.MaxBody < 1 || s.MaxBody > 64<<20 {
		return fmt.Errorf("--max-body: %s is not between 1 byte and 64MiB: give 1MiB, the most that Svix sends", s.MaxBody)
	}
	if s.MaxInFlight < 1 {
		return fmt.Errorf("--max-in-flight: %d requests are none: give 1 or more", s.MaxInFlight)
	}
	for _, d := range []struct {
		flag string
		time time.Duration
	}{
		{"--tolerance", s.Tolerance},
		{"--read-header-timeout", s.ReadHeaderTimeout},
		{"--read-timeout", s.ReadTimeout},
		{"--idle-timeout", s.IdleTimeout},
		{"--publish-timeout", s.PublishTimeout},
	} {
		if d.time <= 0 {
			return fmt.Errorf("%s: %s is no time: give more than 0s", d.flag, d.time)
		}
	}
	if s.DrainDelay < 0 {
		return fmt.Errorf("--drain-delay: %s is less than no time: give 0s or more", s.DrainDelay)
	}
	if longest := s.ReadHeaderTimeout + s.PublishTimeout; longest > sender-margin {
		return fmt.Errorf("--read-header-timeout and --publish-timeout: together %s, but Codat waits %s for an answer: give %s at most", longest, sender, sender-margin)
	}
	if s.ReadTimeout > s.PublishTimeout {
		return fmt.Errorf("--read-timeout: %s is more than the --publish-timeout of %s, which begins with the request: no time would be left to store it", s.ReadTimeout, s.PublishTimeout)
	}
	_, err := s.Keys()
	return err
}

// Keys reads the keys from where the settings say. An error names the place and the cure, and never a
// key.
func (s *Settings) Keys() ([]signature.Key, error) {
	var keys []signature.Key
	for i, secret := range s.Secret {
		key, err := signature.ParseKey(secret)
		if err != nil {
			return nil, fmt.Errorf("--secret, number %d: %w", i+1, err)
		}
		keys = append(keys, key)
	}
	for _, name := range s.SecretFile {
		more, err := readKeys(name)
		if err != nil {
			return nil, fmt.Errorf("--secret-file %s: %w", name, err)
		}
		keys = append(keys, more...)
	}
	if len(keys) == 0 {
		return nil, errors.New("no signing secret: give the endpoint's from Codat's Portal with --secret (HEADGATE_SECRET) or --secret-file (HEADGATE_SECRET_FILE)")
	}
	return keys, nil
}

func readKeys(name string) ([]signature.Key, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var keys []signature.Key
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		key, err := signature.ParseKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		keys = append(keys, key)
	}
	if keys == nil {
		return nil, errors.New("no key in it: give one on a line, whsec_…")
	}
	return keys, nil
}

// validatePath refuses a path that a router would read as a pattern, or a client write differently.
func validatePath(path string) error {
	if !strings.HasPrefix(path, "/") || strings.Trim(path, "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" {
		return fmt.Errorf("--path: %q is not a plain path: begin with / and use letters, digits, - . _ ~ only, as in /webhooks/codat", path)
	}
	return nil
}

// A Size is a number of bytes, written as a plain number or with KiB, MiB or GiB behind it.
type Size int64

var units = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// UnmarshalText reads a size, for flags and files.
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := string(text), int64(1)
	for _, u := range units {
		if n, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = n, u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 32)
	if err != nil {
		return fmt.Errorf("%q is no size: give bytes, or a number with KiB, MiB or GiB, as in 1MiB", text)
	}
	*s = Size(int64(n) * unit)
	return nil
}

// String writes a size as UnmarshalText reads it.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
