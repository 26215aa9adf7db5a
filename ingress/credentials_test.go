package ingress

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/headgate/headgate/pkg/tlsfiles"
	"github.com/headgate/headgate/pkg/watchfile"
)

// Each text is the value of the same header, as editors and shells write it into a file.
func TestParseAuthorization_MatchesTheHeader(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"Bearer token", "\uFEFFBearer token", " bearer  token\r\n", "\uFEFF Bearer token "} {
		name := filepath.Join(t.TempDir(), "values")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		files := watchfile.Lines[credential]{Names: []string{name}, Parse: parseAuthorization}
		fromFile, problems := files.Read()
		fromFlag, err := parseAuthorization(text)
		if err != nil || problems != nil {
			t.Errorf("%q: %v, from a file %v", text, err, problems)
			continue
		}
		for _, value := range append(fromFile, fromFlag) {
			c := new(credentials)
			c.set([]credential{value})
			if !c.accept([]string{"Bearer token"}) {
				t.Errorf("%q does not accept Bearer token", text)
			}
		}
	}
}

// Without the mark removed, the PEM package would skip the first block.
func TestCertificates_LoadFilesWithAByteOrderMark(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	file := func(kind string, block []byte) string {
		name := filepath.Join(t.TempDir(), "pem")
		text := "\uFEFF" + string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: block}))
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	chain := file("CERTIFICATE", cert)
	c := &tlsfiles.Certificates{Cert: chain, Key: file("PRIVATE KEY", key), ClientCA: chain}
	if _, err := c.Load(); err != nil {
		t.Errorf("Load = %v; want no error", err)
	}
}
