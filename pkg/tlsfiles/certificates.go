// Package tlsfiles has the certificates of a listener, which are files that are read again when they change.
package tlsfiles

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/pkg/watchfile"
)

// Certificates are the certificate that a listener presents, and the CAs that it accepts client certificates from. Its errors
// name the flags --tls-cert, --tls-key and --tls-client-ca. Loading them again does not affect open connections.
type Certificates struct {
	Cert, Key, ClientCA string // file names in PEM; ClientCA may be empty

	current atomic.Pointer[tls.Config]
}

// Load reads the files. It reports whether they changed. With an error the previous certificates stay in use.
func (c *Certificates) Load() (changed bool, err error) {
	chain, err := watchfile.ReadFile(c.Cert)
	if err != nil {
		return false, fmt.Errorf("--tls-cert %s: %w", c.Cert, err)
	}
	key, err := watchfile.ReadFile(c.Key)
	if err != nil {
		return false, fmt.Errorf("--tls-key %s: %w", c.Key, err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return false, fmt.Errorf("--tls-cert %s, --tls-key %s: %w", c.Cert, c.Key, err)
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
		Certificates: []tls.Certificate{pair},
	}
	if c.ClientCA != "" {
		text, err := watchfile.ReadFile(c.ClientCA)
		if err != nil {
			return false, fmt.Errorf("--tls-client-ca %s: %w", c.ClientCA, err)
		}
		if config.ClientCAs, err = parseCertificates(text); err != nil {
			return false, fmt.Errorf("--tls-client-ca %s: %w", c.ClientCA, err)
		}
		// A client without a certificate gets an HTTP response and a log line.
		config.ClientAuth = tls.VerifyClientCertIfGiven
		// A session ticket would outlive the CAs that it was issued under.
		config.SessionTicketsDisabled = true
	}
	before := c.current.Swap(config)
	return before == nil || !sameCertificates(before, config), nil
}

// parseCertificates parses all certificates in PEM, with or without text between them. It refuses a text that may contain
// a part of a certificate: without it, clients that were accepted before would be refused.
func parseCertificates(text []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	rest, found := text, false
	for {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		// Decode skips what it cannot parse.
		begin := bytes.LastIndex(rest[:len(rest)-len(after)], []byte("-----BEGIN"))
		line := 1 + bytes.Count(text[:len(text)-len(rest)+begin], []byte("\n"))
		if mayBeCut(rest[:begin]) {
			return nil, fmt.Errorf("the text before line %d is part of a certificate: replace the file with a complete one", line)
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("line %d begins a PEM block that is not a certificate: the file may contain only BEGIN CERTIFICATE blocks", line)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("the certificate that begins on line %d: %w: replace the file with a complete one", line, err)
		}
		pool.AddCert(certificate)
		rest, found = after, true
	}
	switch last := bytes.TrimSpace(rest); {
	case mayBeCut(rest), len(last) > 0 && rest[len(rest)-1] != '\n':
		return nil, errors.New("the file ends with part of a certificate or an unfinished line: replace it with a complete one")
	case !found:
		return nil, errors.New("contains no certificate in PEM")
	}
	return pool, nil
}

// base64Line matches a line of base64 as long as PEM writes them, or longer. The last line of a block, with padding, does
// not match.
var base64Line = regexp.MustCompile(`(?m)^[ \t]*[A-Za-z0-9+/]{64,}[ \t\r]*$`)

// mayBeCut reports whether the text between certificates may be part of one, and not a comment.
func mayBeCut(text []byte) bool {
	if bytes.Contains(text, []byte("-----BEGIN")) || bytes.Contains(text, []byte("-----END")) {
		return true
	}
	return base64Line.Match(text)
}

func sameCertificates(a, b *tls.Config) bool {
	if (a.ClientCAs == nil) != (b.ClientCAs == nil) || a.ClientCAs != nil && !a.ClientCAs.Equal(b.ClientCAs) {
		return false
	}
	one, other := a.Certificates[0].Certificate, b.Certificates[0].Certificate
	if len(one) != len(other) {
		return false
	}
	for i := range one {
		if !bytes.Equal(one[i], other[i]) {
			return false
		}
	}
	return true
}

// Leaf returns the certificate that is presented.
func (c *Certificates) Leaf() *x509.Certificate { return c.current.Load().Certificates[0].Leaf }

// Check returns an error when clients will not accept the certificate because of its dates.
func (c *Certificates) Check(now time.Time) error {
	switch leaf := c.Leaf(); {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("--tls-cert %s: it expired at %s", c.Cert, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("--tls-cert %s: it is not valid before %s", c.Cert, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// Config returns the configuration of a listener. Each connection uses the certificates that were loaded last.
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return c.current.Load(), nil
		},
	}
}

// Validate reports files that do not belong together.
func (c *Certificates) Validate() error {
	switch {
	case (c.Cert == "") != (c.Key == ""):
		return errors.New("--tls-cert and --tls-key must be set together: set both or neither")
	case c.ClientCA != "" && c.Cert == "":
		return errors.New("--tls-client-ca needs --tls-cert and --tls-key: clients present certificates over TLS only")
	}
	return nil
}
