package ingress

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/process"
)

// Look is what --check does: it writes what the settings and all files that they name come to, without a secret. It
// returns false when that was not asked for. It asks no server.
func (s *Settings) Look(w io.Writer) (bool, error) {
	if !s.CheckOnly {
		return false, nil
	}
	if err := s.Validate(); err != nil {
		return true, process.Misconfigured(err)
	}
	if err := s.NATS.Check(); err != nil {
		return true, process.Misconfigured(err)
	}
	if err := process.CheckTraces(); err != nil {
		return true, err
	}
	sources, err := s.open()
	if err != nil {
		return true, process.Misconfigured(err)
	}
	security, err := s.security()
	if err != nil {
		return true, process.Misconfigured(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "listens on %s, %s; probes and metrics on %s; NATS not asked\n", s.Listen, security, s.AdminListen)
	if len(s.Proxies) > 0 {
		fmt.Fprintf(&b, "believes X-Forwarded-For of %s\n", strings.Join(s.Proxies, ", "))
	}
	for _, src := range sources {
		fmt.Fprintf(&b, "source %s: path %s, stream %s\n", src.Name, src.Path, src.Name.Stream())
		fmt.Fprintf(&b, "  %s: %s\n", counted(len(src.fingerprints), "key"), strings.Join(src.fingerprints, " "))
		fmt.Fprintf(&b, "  %s of Authorization, %s, %s\n",
			atLeast(src.credentials.count(), "value"), atLeast(len(src.ClientIDs), "client id"), from(src.Allow))
		fmt.Fprintf(&b, "  bodies to %s, %d in flight, tolerance %s, %s\n", src.MaxBody, src.MaxInFlight, src.Tolerance, limit(*src.UnprovenRate))
	}
	b.WriteString("good\n")
	_, err = io.WriteString(w, b.String())
	return true, err
}

// security says what the public listener shows. A certificate that ended is an error here; a process that runs takes
// the next one when its file is there.
func (s *Settings) security() (string, error) {
	if s.TLSCert == "" {
		return "HTTP", nil
	}
	c := s.certificates()
	if _, err := c.load(); err != nil {
		return "", err
	}
	if err := c.check(time.Now()); err != nil {
		return "", err
	}
	leaf := c.leaf()
	text := fmt.Sprintf("HTTPS as %s until %s", strings.Join(leaf.DNSNames, " "), leaf.NotAfter.UTC().Format(time.DateOnly))
	if c.clientCA != "" {
		text += ", to clients with a certificate"
	}
	return text, nil
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func atLeast(n int, what string) string {
	if n == 0 {
		return "any " + what
	}
	return counted(n, what)
}

func from(allow []string) string {
	if len(allow) == 0 {
		return "from any address"
	}
	return "from " + strings.Join(allow, ", ")
}

func limit(perSecond float64) string {
	if perSecond == 0 {
		return "no limit of what does not prove"
	}
	return fmt.Sprintf("%v/s of an address that do not prove", perSecond)
}
