package ingress

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/clientip"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/tlsfiles"
)

// Settings are the settings of the ingress.
type Settings struct {
	process.Settings
	stream.NATS

	Listen      string   `name:"listen" default:":8080" help:"Address (host:port) of the public listener, which Codat posts to."`
	TLSCert     string   `name:"tls-cert" placeholder:"FILE" help:"File with the certificate chain of the public listener (PEM). It is reloaded when it changes. Without it the listener serves HTTP."`
	TLSKey      string   `name:"tls-key" placeholder:"FILE" help:"File with the private key of the certificate (PEM). It is reloaded when it changes."`
	TLSClientCA string   `name:"tls-client-ca" placeholder:"FILE" help:"File with the CA certificates that client certificates must be signed by (PEM). It is reloaded when it changes. A client without a certificate is answered 403."`
	Proxies     []string `name:"trusted-proxy" placeholder:"CIDR" help:"Address or range of a trusted proxy. Its X-Forwarded-For names the client: the right-most address that is not a trusted proxy."`

	Sources string        `name:"sources" placeholder:"FILE" help:"File that describes several Codat instances (YAML), in place of the settings of one, --path to --allow."`
	Path    string        `name:"path" default:"/webhooks/codat" help:"Path of the webhook. Every other path is answered 404."`
	Source  stream.Source `name:"source" default:"codat" help:"Name of the Codat instance: the first part of its subjects and, in capitals, of its streams."`

	Secret            process.Keys      `name:"secret" placeholder:"KEY" help:"Signing secret of the endpoint as Codat's Portal shows it. Give the old and the new one, separated by a comma, during a rotation. Other users can see flags in the process list: prefer the environment or a file."`
	SecretFile        process.FileNames `name:"secret-file" placeholder:"FILE" help:"File of signing secrets, one per line, or folder of such files. Commas separate several, unless one file has that name. Lines that begin with # are comments. It is reloaded when it changes: keys rotate without a restart. In a container mount its folder: a file that is mounted alone stays the old one when it is replaced."`
	Authorization     []string          `name:"authorization" sep:"none" placeholder:"VALUE" help:"Value that the header Authorization must have, as set in Codat's Portal: Bearer and a token, Basic and user:password, or any other text. Repeat it to accept several values. Prefer the environment or a file."`
	AuthorizationFile process.FileNames `name:"authorization-file" placeholder:"FILE" help:"File of values of the header Authorization, one per line, or folder of such files. Commas separate several, unless one file has that name. It is reloaded when it changes."`
	ClientIDs         []string          `name:"client-id" placeholder:"ID" help:"Value that the header X-Codat-ClientId must have. Repeat it to accept several values. The header is not signed: the key decides which source an event belongs to."`
	Allow             []string          `name:"allow" placeholder:"CIDR" help:"Address or range that requests are accepted from, or codat for Codat's own addresses. Other clients are answered 403. Default: all addresses."`

	MaxBody        process.ByteSize `name:"max-body" default:"1MiB" help:"Largest body, in bytes or with a unit, like 512KiB. A larger one is answered 413. Svix sends at most 1MiB."`
	Tolerance      time.Duration    `name:"tolerance" default:"5m" help:"Largest difference between the time of a signature and the clock of this machine, in either direction."`
	MaxInFlight    int              `name:"max-in-flight" default:"1024" help:"Verified requests of a source that are stored at a time. More are answered 503. Codat's own addresses have a limit of the same size to themselves."`
	MaxBytes       process.ByteSize `name:"max-bytes" default:"64MiB" help:"Memory for the bodies in flight, at most half of it for unverified ones. Requests over it are answered 503. Codat's own addresses have the same amount to themselves."`
	MaxConnections int              `name:"max-connections" default:"2048" help:"Open connections. At the limit, a new connection closes the one that has been without a verified request longest. A connection uses about 20KiB, with TLS 40KiB, and up to 50KiB more for the headers of a request. Codat's own addresses are exempt."`
	UnprovenRate   float64          `name:"unproven-rate" default:"0" help:"Unauthenticated requests a second that an address may send, on any path and by any method. More are answered 503. 0 means no limit. Behind a proxy that is not a --trusted-proxy all clients have one address. Codat's own addresses are exempt."`

	ReadHeaderTimeout time.Duration `name:"read-header-timeout" default:"3s" help:"Time to receive the headers of a request, from its first byte."`
	ReadTimeout       time.Duration `name:"read-timeout" default:"5s" help:"Time to receive a whole request, from its first byte. A slower body is answered 408."`
	IdleTimeout       time.Duration `name:"idle-timeout" default:"2m" help:"Time that a connection may be idle before a request. Make it longer than that of the load balancer in front."`
	PublishTimeout    time.Duration `name:"publish-timeout" default:"8s" help:"Time from the arrival of a request until its event must be stored. Later it is answered 503. Codat waits 15s."`
	DrainDelay        time.Duration `name:"drain-delay" default:"5s" help:"Time to keep receiving after SIGTERM while not ready, so that load balancers notice."`

	LogAccepted int  `name:"log-accepted" default:"100" help:"Log lines a second for accepted requests, and as many for those that came again. Beyond it, one in a hundred is logged. 0 logs none. Refusals have 100 lines a second for each reason, and one with the number of those that were left out."`
	Provision   bool `name:"provision" help:"Create the streams of the sources that do not exist, with the defaults of headgate provision, also when one is deleted later."`
	CheckOnly   bool `name:"check" env:"-" help:"Check the settings and all files that they name, print a summary, and exit: 0 when they are valid, 2 when not."`
}

const (
	senderTimeout  = 15 * time.Second // how long Codat waits for a response
	responseMargin = time.Second      // how much of it the network may take
)

// Codat sends fewer than 20 headers of less than 2 KiB, and those that its user sets; proxies add some.
const (
	maxHeaderLines = 100
	maxHeaderBytes = 16 << 10 // with the request line
)

// Validate reports the first invalid setting. It reads the files that the settings name.
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
		return fmt.Errorf("--listen and --admin-listen are both %s: give each its own address", s.Listen)
	}
	if err := s.validateNotEmpty(); err != nil {
		return err
	}
	if _, err := clientip.Parse(s.Proxies); err != nil {
		return fmt.Errorf("--trusted-proxy: %w", err)
	}
	if s.MaxConnections < 1 {
		return fmt.Errorf("--max-connections must be at least 1 (got %d)", s.MaxConnections)
	}
	if s.LogAccepted < 0 {
		return fmt.Errorf("--log-accepted must be at least 0 (got %d)", s.LogAccepted)
	}
	if err := s.validateTimeouts(); err != nil {
		return err
	}
	if err := s.certificates().Validate(); err != nil {
		return err
	}
	if s.TLSCert != "" {
		if _, err := s.certificates().Load(); err != nil {
			return err
		}
	}
	_, err := s.openSources()
	return err
}

func (s *Settings) validateTimeouts() error {
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
			return fmt.Errorf("%s must be greater than 0s (got %s)", d.flag, d.time)
		}
	}
	if s.DrainDelay < 0 {
		return fmt.Errorf("--drain-delay must be at least 0s (got %s)", s.DrainDelay)
	}
	if sum := s.ReadHeaderTimeout + s.PublishTimeout; sum > senderTimeout-responseMargin {
		return fmt.Errorf("--read-header-timeout and --publish-timeout must be at most %s together (got %s): Codat waits %s for a response", senderTimeout-responseMargin, sum, senderTimeout)
	}
	if s.ReadTimeout > s.PublishTimeout {
		return fmt.Errorf("--read-timeout must be at most the --publish-timeout of %s (got %s): both start with the request", s.PublishTimeout, s.ReadTimeout)
	}
	return nil
}

// validateNotEmpty reports an access check that is set to an empty value, which would switch it off.
func (s *Settings) validateNotEmpty() error {
	for _, check := range []struct {
		flag  string
		empty bool
	}{
		{"authorization-file", len(s.AuthorizationFile) == 0},
		{"client-id", len(s.ClientIDs) == 0},
		{"allow", len(s.Allow) == 0},
		{"tls-client-ca", s.TLSClientCA == ""},
	} {
		if check.empty && slices.Contains(s.Given, check.flag) {
			return fmt.Errorf("--%s (or its variable) is set to an empty value: give it a value, or unset it to switch the check off", check.flag)
		}
	}
	return nil
}

func (s *Settings) certificates() *tlsfiles.Certificates {
	return &tlsfiles.Certificates{Cert: s.TLSCert, Key: s.TLSKey, ClientCA: s.TLSClientCA}
}

// Keys returns the keys of a single source, from the settings and their files. An error names the setting or file and the
// cure, and never a key.
func (s *Settings) Keys() ([]signature.Key, error) {
	one := s.sourceFromFlags()
	keys, problems := newSource(one).readKeys()
	if len(problems) > 0 {
		return nil, problems[0]
	}
	return keys, nil
}

// validatePath refuses a path that a router would take for a pattern, or that a client may encode differently.
func validatePath(path string) error {
	if !strings.HasPrefix(path, "/") || strings.Trim(path, "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" {
		return fmt.Errorf("%q is not a plain path: it must begin with / and contain only letters, digits, and - . _ ~, like /webhooks/codat", path)
	}
	return nil
}
