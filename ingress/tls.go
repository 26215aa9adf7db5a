package ingress

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
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
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(text) {
			return false, fmt.Errorf("--tls-client-ca %s: no certificate in PEM in it", c.clientCA)
		}
		// Who has none is answered, and logged, by HTTP.
		config.ClientAuth = tls.VerifyClientCertIfGiven
		// A ticket would outlive the certificates that it was given for.
		config.SessionTicketsDisabled = true
	}
	before := c.now.Swap(config)
	return before == nil || !sameCertificates(before, config), nil
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
