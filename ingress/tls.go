package ingress

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"regexp"
	"sync/atomic"
	"time"
)

// certificates are what the public listener shows, and what it asks of those who connect. They can be replaced while
// requests run: connections that are made keep what they were made with.
type certificates struct {
	cert, key, clientCA string // files

	now atomic.Pointer[tls.Config]
}

// load reads the files. What was read before stays when it returns an error.
func (c *certificates) load() (changed bool, err error) {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return false, fmt.Errorf("--tls-cert %s, --tls-key %s: %w", c.cert, c.key, err)
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
		Certificates: []tls.Certificate{pair},
	}
	if c.clientCA != "" {
		text, err := os.ReadFile(c.clientCA)
		if err != nil {
			return false, fmt.Errorf("--tls-client-ca: %w", err)
		}
		if config.ClientCAs, err = parseCertificates(text); err != nil {
			return false, fmt.Errorf("--tls-client-ca %s: %w", c.clientCA, err)
		}
		// Who has none is answered, and logged, by HTTP.
		config.ClientAuth = tls.VerifyClientCertIfGiven
		// A ticket would outlive the certificates that it was given for.
		config.SessionTicketsDisabled = true
	}
	before := c.now.Swap(config)
	return before == nil || !sameCertificates(before, config), nil
}

// parseCertificates reads all certificates in PEM, with or without text between them. It refuses a text of which a part
// may be a certificate that is cut or damaged: without that one, who showed a good certificate yesterday is kept out.
func parseCertificates(text []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	rest, found := text, false
	for {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		// What Decode cannot read it passes over.
		begin := bytes.LastIndex(rest[:len(rest)-len(after)], []byte("-----BEGIN"))
		line := 1 + bytes.Count(text[:len(text)-len(rest)+begin], []byte("\n"))
		if mayBeCut(rest[:begin]) {
			return nil, fmt.Errorf("what stands before line %d is no whole certificate: put the whole file there again", line)
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("line %d begins no certificate, but another thing in PEM: only BEGIN CERTIFICATE belongs there", line)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("the certificate that begins on line %d: %w: put the whole file there again", line, err)
		}
		pool.AddCert(certificate)
		rest, found = after, true
	}
	switch last := bytes.TrimSpace(rest); {
	case mayBeCut(rest), len(last) > 0 && rest[len(rest)-1] != '\n':
		return nil, errors.New("its end is no whole certificate, or a comment that does not end its line: put the whole file there again")
	case !found:
		return nil, errors.New("no certificate in PEM in it")
	}
	return pool, nil
}

// fullLine is one of base64 that is as long as PEM has them, or longer; a last line with padding is not one.
var fullLine = regexp.MustCompile(`(?m)^[ \t]*[A-Za-z0-9+/]{64,}[ \t\r]*$`)

// mayBeCut reports whether a text between certificates may be what is left of one, and not a comment.
func mayBeCut(text []byte) bool {
	if bytes.Contains(text, []byte("-----BEGIN")) || bytes.Contains(text, []byte("-----END")) {
		return true
	}
	return fullLine.Match(text)
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

// leaf is the certificate that is shown.
func (c *certificates) leaf() *x509.Certificate { return c.now.Load().Certificates[0].Leaf }

// check says what will keep those who connect from believing the certificate.
func (c *certificates) check(now time.Time) error {
	switch leaf := c.leaf(); {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("--tls-cert %s: it ended at %s", c.cert, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("--tls-cert %s: it begins at %s only", c.cert, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// config is for a listener: each connection is made with what was read last.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return c.now.Load(), nil
		},
	}
}

// validate reports files that do not belong together.
func (c *certificates) validate() error {
	switch {
	case (c.cert == "") != (c.key == ""):
		return errors.New("--tls-cert and --tls-key belong together: set both or none")
	case c.clientCA != "" && c.cert == "":
		return errors.New("--tls-client-ca needs --tls-cert and --tls-key: who connects shows a certificate over TLS only")
	}
	return nil
}
