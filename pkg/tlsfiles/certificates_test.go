package tlsfiles

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
)

// certificate returns a self-signed certificate in PEM.
func certificate(t *testing.T, name string) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestParseCertificates(t *testing.T) {
	t.Parallel()
	one, two, three := certificate(t, "one"), certificate(t, "two"), certificate(t, "three")
	begin, end := "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n"
	inner := strings.TrimSuffix(strings.TrimPrefix(two, begin), end)
	firstLine, _, _ := strings.Cut(inner, "\n")
	other := string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte("x")}))
	damaged := begin + base64.StdEncoding.EncodeToString([]byte("no certificate")) + "\n" + end
	tests := []struct {
		name, text string
		want       []string // the certificates, none for an error
		wantErr    string
	}{
		{"one", one, []string{one}, ""},
		{"one whose last line does not end", strings.TrimSpace(one), []string{one}, ""},
		{"two", one + two, []string{one, two}, ""},
		{"lines as Windows ends them", strings.ReplaceAll(one+two, "\n", "\r\n"), []string{one, two}, ""},
		{"blank lines", "\n" + one + "\n \n" + two + "\n\n  ", []string{one, two}, ""},
		{"as openssl s_client -showcerts", "CONNECTED(00000003)\n---\nCertificate chain\n 0 s:CN=one\n   i:CN=one\n" + one + " 1 s:CN=two\n" + two + "---\nServer certificate\nsubject=CN=one\n---\n", []string{one, two}, ""},
		{"as openssl x509 -text", "Certificate:\n    Data:\n        Version: 3 (0x2)\n                pub:\n                    04:5b:c9:aa\n" + one, []string{one}, ""},
		{"as openssl pkcs12", "Bag Attributes\n    friendlyName: one\nsubject=CN=one\n\nissuer=CN=one\n\n" + one + "Bag Attributes: <No Attributes>\n" + two, []string{one, two}, ""},
		{"as curl", "##\n## Bundle\n##\n\nOne Root CA\n" + strings.Repeat("=", 70) + "\n" + one + "\nTwo\n===\n" + two, []string{one, two}, ""},

		{"nothing", "", nil, "contains no certificate in PEM"},
		{"only words", "hello\n", nil, "contains no certificate in PEM"},
		{"the second is cut", one + begin + firstLine + "\n", nil, "the file ends with part of a certificate"},
		{"the second is cut, and a third follows", one + begin + firstLine + "\n" + three, nil, "before line "},
		{"the second has lost its first line", one + inner + end + three, nil, "before line "},
		{"the second has lost its last line", one + begin + inner + three, nil, "before line "},
		{"the second has lost both", one + inner + three, nil, "before line "},
		{"the second is damaged", one + damaged + three, nil, "the certificate that begins on line "},
		{"the second has an invalid letter", one + strings.Replace(two, "M", "*", 1) + three, nil, "before line "},
		{"no line between the first and the second", strings.TrimSpace(one) + two, nil, "part of a certificate"},
		{"another thing", one + other, nil, "begins a PEM block that is not a certificate"},
		{"the end is within a line of text", one + "# tw", nil, "unfinished line"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseCertificates([]byte(tt.text))
			if tt.want == nil {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("parseCertificates = %v; want an error that says %q", err, tt.wantErr)
				}
				return
			}
			want := x509.NewCertPool()
			for _, c := range tt.want {
				want.AppendCertsFromPEM([]byte(c))
			}
			if err != nil || !got.Equal(want) {
				t.Errorf("parseCertificates = %v; want %d certificates", err, len(tt.want))
			}
		})
	}
}

// A file that is cut anywhere but after a whole certificate is refused.
func TestParseCertificates_RefusesAFileThatIsCut(t *testing.T) {
	t.Parallel()
	one, two := certificate(t, "one"), certificate(t, "two")
	only := x509.NewCertPool()
	only.AppendCertsFromPEM([]byte(one))
	text := []byte(one + "\n" + two)
	for n := range len(text) - 1 { // the last byte ends the last line
		got, err := parseCertificates(text[:n])
		whole := n >= len(one)-1 && len(bytes.TrimSpace(text[len(one):max(n, len(one))])) == 0
		if whole && (err != nil || !got.Equal(only)) {
			t.Errorf("cut after %d bytes, behind the first: %v; want the first", n, err)
		}
		if !whole && err == nil {
			t.Errorf("cut after %d bytes it is accepted", n)
		}
	}
}
