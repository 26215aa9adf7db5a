package ingress

import (
	"fmt"
	"net"
	"slices"
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

	Listen      string   `name:"listen" default:":8080" help:"Address (host:port) of the public listener, to which Codat posts."`
	TLSCert     string   `name:"tls-cert" placeholder:"FILE" help:"File with the certificate of the public listener and those between (PEM); it is watched. Without it the listener speaks HTTP."`
	TLSKey      string   `name:"tls-key" placeholder:"FILE" help:"File with the key of the certificate (PEM); it is watched."`
	TLSClientCA string   `name:"tls-client-ca" placeholder:"FILE" help:"File with the certificates that must have signed the client's (PEM); it is watched. Who shows none is answered 403."`
	Proxies     []string `name:"trusted-proxy" placeholder:"CIDR" help:"Addresses of the proxies in front, whose X-Forwarded-For is believed: the client is the right-most address in it that is not one of them."`

	Sources string        `name:"sources" placeholder:"FILE" help:"File of several Codat instances (YAML), instead of the settings for one from --path to --allow."`
	Path    string        `name:"path" default:"/webhooks/codat" help:"Path of the webhook; every other one is answered 404."`
	Source  stream.Source `name:"source" default:"codat" help:"Name of the Codat instance: the first part of every subject, and in capitals of every stream."`

	Secret            []string `name:"secret" placeholder:"KEY" help:"Signing secret of the endpoint as Codat's Portal shows it. Give all while they rotate. Others can read the flag in the list of processes: prefer the environment, or a file."`
	SecretFile        []string `name:"secret-file" placeholder:"FILE" help:"File of signing secrets, one on a line, or folder of such files; lines that begin with # are comments. It is watched: keys rotate without a restart."`
	Authorization     []string `name:"authorization" sep:"none" placeholder:"VALUE" help:"What the header Authorization must say, as set in Codat's Portal: Bearer and a token, Basic and user:password, or any other text. Give it again for another that will do. Prefer the environment, or a file."`
	AuthorizationFile []string `name:"authorization-file" placeholder:"FILE" help:"File of values for the header Authorization, one on a line, or folder of such files. It is watched."`
	ClientIDs         []string `name:"client-id" placeholder:"ID" help:"What the header X-Codat-ClientId must say, or one of several. It is not signed: the key is what tells whose an event is."`
	Allow             []string `name:"allow" placeholder:"CIDR" help:"Addresses from which requests are taken, ranges of them, or codat for Codat's own; others are answered 403. All if not given."`

	MaxBody        Size          `name:"max-body" default:"1MiB" help:"Largest body, in bytes or with KiB or MiB; a larger one is answered 413. Svix sends 1MiB at most."`
	Tolerance      time.Duration `name:"tolerance" default:"5m" help:"How far the time of a signature may be from this clock, before or after."`
	MaxInFlight    int           `name:"max-in-flight" default:"1024" help:"Proven requests of a source that are stored at a time; one more is answered 503. Codat's own addresses have as many for themselves."`
	MaxBytes       Size          `name:"max-bytes" default:"64MiB" help:"Memory for the bodies in flight, half of it at most for what is not proven; over it is answered 503. Codat's own addresses have as much for themselves."`
	MaxConnections int           `name:"max-connections" default:"2048" help:"Open connections; for one more, another that waits for a request is closed. One costs about 20KiB, with TLS 40KiB. Codat's own addresses are not held to it."`
	UnprovenRate   float64       `name:"unproven-rate" default:"0" help:"Requests a second that an address may send which do not prove; then it is answered 503. 0 for no limit: behind a proxy that --trusted-proxy does not name, all come from one address. Codat's own are never limited."`

	ReadHeaderTimeout time.Duration `name:"read-header-timeout" default:"3s" help:"Time for the headers of a request to come."`
	ReadTimeout       time.Duration `name:"read-timeout" default:"5s" help:"Time for a whole request to come; a slower body is answered 408."`
	IdleTimeout       time.Duration `name:"idle-timeout" default:"2m" help:"Time that a connection may be silent between two requests. Longer than the balancer's in front of it."`
	PublishTimeout    time.Duration `name:"publish-timeout" default:"8s" help:"Time from when a request came until its event must be stored; then it is answered 503. Codat waits 15s."`
	DrainDelay        time.Duration `name:"drain-delay" default:"5s" help:"Time to go on receiving after SIGTERM, while not ready, until balancers have noticed."`

	LogAccepted int  `name:"log-accepted" default:"100" help:"Lines a second for requests that were accepted; of more, one in a hundred is written. 0 for none. Refusals always have theirs."`
	Provision   bool `name:"provision" help:"Make the streams of the sources where they are missing, with the defaults of headgate provision."`
	CheckOnly   bool `name:"check" env:"-" help:"Check the settings and all files that they name, say what they come to, and exit: 0 when they are good, 2 when not."`
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
	if _, port, _ := net.SplitHostPort(s.Listen); s.Listen == s.AdminListen && port != "0" {
		return fmt.Errorf("--listen and --admin-listen: both are %s: give each an address of its own", s.Listen)
	}
	if err := s.validateDoors(); err != nil {
		return err
	}
	if _, err := parseNetworks(s.Proxies); err != nil {
		return fmt.Errorf("--trusted-proxy: %w", err)
	}
	if s.MaxConnections < 1 {
		return fmt.Errorf("--max-connections: %d are none: give 1 or more", s.MaxConnections)
	}
	if s.LogAccepted < 0 {
		return fmt.Errorf("--log-accepted: %d lines are less than none: give 0 or more", s.LogAccepted)
	}
	for _, d := range []struct {
		flag string
		time time.Duration
	}{
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
	if err := s.certificates().validate(); err != nil {
		return err
	}
	if s.TLSCert != "" {
		if _, err := s.certificates().load(); err != nil {
			return err
		}
	}
	_, err := s.open()
	return err
}

// validateDoors reports a door that is set, but to nothing: whoever set it did not mean that it stands open.
func (s *Settings) validateDoors() error {
	for _, door := range []struct {
		flag  string
		empty bool
	}{
		{"authorization-file", len(s.AuthorizationFile) == 0},
		{"client-id", len(s.ClientIDs) == 0},
		{"allow", len(s.Allow) == 0},
		{"tls-client-ca", s.TLSClientCA == ""},
	} {
		if door.empty && slices.Contains(s.Given, door.flag) {
			return fmt.Errorf("--%s (or its variable) is set, but empty: give it, or unset it so that nothing is asked for", door.flag)
		}
	}
	return nil
}

func (s *Settings) certificates() *certificates {
	return &certificates{cert: s.TLSCert, key: s.TLSKey, clientCA: s.TLSClientCA}
}

// Keys reads the keys of a single source from where the settings say. An error names the place and the cure, and never
// a key.
func (s *Settings) Keys() ([]signature.Key, error) {
	one := s.single()
	keys, problems := newSource(one).readKeys()
	if len(problems) > 0 {
		return nil, problems[0]
	}
	return keys, nil
}

// validatePath refuses a path that a router would read as a pattern, or a client write differently.
func validatePath(path string) error {
	if !strings.HasPrefix(path, "/") || strings.Trim(path, "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" {
		return fmt.Errorf("%q is not a plain path: begin with / and use letters, digits, - . _ ~ only, as in /webhooks/codat", path)
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
