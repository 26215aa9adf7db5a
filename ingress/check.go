package ingress

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/process"
)

// Check does what --check asks for: it validates the settings and all files that they name, and writes a summary without
// secrets. It returns false without --check. It connects to no server.
func (s *Settings) Check(w io.Writer) (bool, error) {
	if !s.CheckOnly {
		return false, nil
	}
	if err := s.Validate(); err != nil {
		return true, process.Misconfigured(err)
	}
	if err := s.NATS.Check(); err != nil {
		return true, process.Misconfigured(err)
	}
	sources, err := s.openSources()
	if err != nil {
		return true, process.Misconfigured(err)
	}
	security, err := s.security()
	if err != nil {
		return true, process.Misconfigured(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "listens on %s (%s), probes and metrics on %s; the connection to NATS is not checked\n", s.Listen, security, s.AdminListen)
	if len(s.Proxies) > 0 {
		fmt.Fprintf(&b, "trusts X-Forwarded-For from %s\n", strings.Join(s.Proxies, ", "))
	}
	for _, src := range sources {
		fmt.Fprintf(&b, "source %s: path %s, stream %s\n", src.Name, src.Path, src.Name.Stream())
		fmt.Fprintf(&b, "  %s: %s\n", plural(len(src.fingerprints), "key"), strings.Join(src.fingerprints, " "))
		fmt.Fprintf(&b, "  accepts %s of Authorization, %s, %s\n",
			pluralOrAny(src.credentials.count(), "value"), pluralOrAny(len(src.ClientIDs), "client id"), fromAddresses(src.Allow))
		fmt.Fprintf(&b, "  bodies up to %s, %d requests in flight, tolerance %s, %s\n", src.MaxBody, src.MaxInFlight, src.Tolerance, rateLimit(*src.UnprovenRate))
	}
	if err := process.CheckTraces(); err != nil {
		fmt.Fprintf(&b, "warning: traces are off: %v\n", err)
	}
	b.WriteString("configuration OK\n")
	_, err = io.WriteString(w, b.String())
	return true, err
}

// security describes the transport of the public listener. An expired certificate is an error here; a running process
// reloads it when the file is replaced.
func (s *Settings) security() (string, error) {
	if s.TLSCert == "" {
		return "HTTP", nil
	}
	c := s.certificates()
	if _, err := c.Load(); err != nil {
		return "", err
	}
	if err := c.Check(time.Now()); err != nil {
		return "", err
	}
	leaf := c.Leaf()
	text := fmt.Sprintf("HTTPS as %s until %s", strings.Join(leaf.DNSNames, " "), leaf.NotAfter.UTC().Format(time.DateOnly))
	if c.ClientCA != "" {
		text += ", client certificates required"
	}
	return text, nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func pluralOrAny(n int, what string) string {
	if n == 0 {
		return "any " + what
	}
	return plural(n, what)
}

func fromAddresses(allow []string) string {
	if len(allow) == 0 {
		return "from any address"
	}
	return "from " + strings.Join(allow, ", ")
}

func rateLimit(perSecond float64) string {
	if perSecond == 0 {
		return "no limit of unauthenticated requests"
	}
	return fmt.Sprintf("%v unauthenticated requests/s from one address", perSecond)
}
