package ingress_test

import (
	"crypto/tls"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A file of client CAs that is half broken keeps what it said before, the half that is not there any more too.
func TestAHalfBrokenClientCAKeepsTheOldOnes(t *testing.T) {
	k, ca, other := key(t, "us"), newCA(t, "ours"), newCA(t, "theirs")
	dir := t.TempDir()
	certFile, keyFile, clientFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")
	cert, secret := ca.issue(t, "first", time.Now().Add(time.Hour))
	write(t, certFile, cert)
	write(t, keyFile, secret)
	write(t, clientFile, ca.pem+other.pem)
	g := run(t, settings(t, streamtest.New(t).URL, k, "--tls-cert", certFile, "--tls-key", keyFile, "--tls-client-ca", clientFile))
	g.waitReady(t)
	ready := g.readyz(t)
	own := func(by *testCA) tls.Certificate {
		cert, secret := by.issue(t, "codat", time.Now().Add(time.Hour))
		pair, err := tls.X509KeyPair([]byte(cert), []byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	both := func(t *testing.T) {
		t.Helper()
		for name, by := range map[string]*testCA{"ours": ca, "theirs": other} {
			if status, _, err := visit(g, k, ca, own(by)); status != 204 || err != nil {
				t.Errorf("under %s answered %d, %v; want 204", name, status, err)
			}
		}
	}
	both(t)
	for _, broken := range []struct{ name, text, says string }{
		{"the second is cut", ca.pem + other.pem[:len(other.pem)/2], "no whole certificate"},
		{"the first is cut", ca.pem[:len(ca.pem)/2] + "\n" + other.pem, "no whole certificate"},
		{"the second cannot be read", ca.pem + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "x509"},
	} {
		t.Run(broken.name, func(t *testing.T) {
			g.logs.TakeAll()
			replace(t, clientFile, broken.text)
			streamtest.Wait(t, func() bool {
				got := ready()
				return got.status == 200 && strings.Contains(got.body, "WARN  files: ") && strings.Contains(got.body, broken.says)
			}, "readiness warns: "+broken.says)
			if g.value(t, "file_problems", "") != 1 {
				t.Errorf("file_problems = %v; want 1", g.value(t, "file_problems", ""))
			}
			both(t)
			replace(t, clientFile, other.pem+"\n"+ca.pem)
			streamtest.Wait(t, func() bool { return !strings.Contains(ready().body, "WARN") }, "readiness warns no more")
			if g.logs.FilterMessageSnippet("a file cannot be used").Len() == 0 {
				t.Error("the log does not say that a file cannot be used")
			}
			both(t)
		})
	}
}
