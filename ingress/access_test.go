package ingress_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// An accessTest is a request to an ingress that checks access, and its outcome.
type accessTest struct {
	name   string
	header http.Header
	status int
	reason string // "" when it is let in
}

func (g *instance) testAccess(t *testing.T, k testKey, requests []accessTest) {
	t.Helper()
	for i, tt := range requests {
		t.Run(tt.name, func(t *testing.T) {
			g.logs.TakeAll()
			req := post(g.url, k, signature.NewID(), event("company.created"))
			for name, lines := range tt.header {
				req.Header[name] = lines
			}
			got := send(t, req)
			if got.status != tt.status || got.body != "" || got.header.Get("WWW-Authenticate") != "" {
				t.Errorf("%d: answered %d %q; want %d and nothing", i, got.status, got.body, tt.status)
			}
			_, line := g.line(t)
			if reason, _ := line["reason"].(string); reason != tt.reason {
				t.Errorf("%d: logged reason %q; want %q", i, reason, tt.reason)
			}
		})
	}
}

func TestHandler_RequiresAuthorization(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	file := filepath.Join(t.TempDir(), "values")
	write(t, file, "# of the Portal", "Bearer from-a-file")
	g := run(t, settings(t, server.URL, k, "--authorization", "Bearer one, two", "--authorization", "Basic user:pass:word", "--authorization", "just text",
		"--authorization-file", file))
	g.waitReady(t)
	with := func(lines ...string) http.Header { return http.Header{"Authorization": lines} }
	basic := base64.StdEncoding.EncodeToString([]byte("user:pass:word"))
	g.testAccess(t, k, []accessTest{
		{"none", nil, 401, "authorization"},
		{"bearer", with("Bearer one, two"), 204, ""},
		{"the scheme in small letters", with("bearer one, two"), 204, ""},
		{"the token in capitals", with("Bearer ONE, TWO"), 401, "authorization"},
		{"basic", with("Basic " + basic), 204, ""},
		{"basic with another password", with("Basic " + base64.StdEncoding.EncodeToString([]byte("user:pass"))), 401, "authorization"},
		{"a text without a scheme", with("just text"), 204, ""},
		{"from a file", with("Bearer from-a-file"), 204, ""},
		{"a comment of a file", with("# of the Portal"), 401, "authorization"},
		{"the beginning of one", with("Bearer one"), 401, "authorization"},
		{"more than one", with("Bearer one, two, three"), 401, "authorization"},
		{"empty", with(""), 401, "authorization"},
		{"a right line and a wrong one", with("Bearer one, two", "Bearer three"), 401, "authorization"},
		{"two right lines", with("just text", "just text"), 401, "authorization"},
	})

	replace(t, file, "Bearer another")
	streamtest.Wait(t, func() bool {
		req := post(g.url, k, signature.NewID(), event("company.created"))
		req.Header.Set("Authorization", "Bearer another")
		return send(t, req).status == 204
	}, "the new value will do")
	g.testAccess(t, k, []accessTest{{"the one before", with("Bearer from-a-file"), 401, "authorization"}})
	if all := fmt.Sprint(g.logs.All()); strings.Contains(all, "pass:word") || strings.Contains(all, basic) || strings.Contains(all, "another") {
		t.Error("the log has a value in it")
	}
}

func TestHandler_RequiresAClientID(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	g := run(t, settings(t, server.URL, k, "--client-id", "id-1,id-2"))
	g.waitReady(t)
	with := func(lines ...string) http.Header { return http.Header{"X-Codat-Clientid": lines} }
	g.testAccess(t, k, []accessTest{
		{"none", nil, 401, "client_id"},
		{"one", with("id-1"), 204, ""},
		{"the other", with("id-2"), 204, ""},
		{"a third", with("id-3"), 401, "client_id"},
		{"a right one and a wrong one", with("id-1", "id-3"), 401, "client_id"},
	})
}

func TestHandler_RequiresAnAllowedAddress(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	from := func(lines ...string) http.Header { return http.Header{"X-Forwarded-For": lines} }
	tests := []struct {
		name     string
		flags    []string
		requests []accessTest
	}{
		{"ours", []string{"--allow", "127.0.0.1"}, []accessTest{
			{"directly", nil, 204, ""},
			{"X-Forwarded-For of an untrusted proxy is ignored", from("6.6.6.6"), 204, ""},
		}},
		{"Codat's", []string{"--allow", "codat"}, []accessTest{
			{"directly", nil, 403, "address"},
			{"X-Forwarded-For of an untrusted proxy", from("4.159.114.108"), 403, "address"},
		}},
		{"Codat's behind a proxy", []string{"--allow", "codat", "--trusted-proxy", "127.0.0.0/8,10.0.0.0/8"}, []accessTest{
			{"one", from("4.159.114.108"), 204, ""},
			{"the other", from("20.117.190.191, 10.1.1.1"), 204, ""},
			{"another client that claims to be Codat", from("4.159.114.108, 6.6.6.6"), 403, "address"},
			{"another client that claims to be Codat, on a second line", from("4.159.114.108", "6.6.6.6"), 403, "address"},
			{"the proxy itself", nil, 403, "address"},
			{"an invalid address", from("unknown"), 403, "address"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := run(t, settings(t, server.URL, k, tt.flags...))
			g.waitReady(t)
			g.testAccess(t, k, tt.requests)
		})
	}
}

// A request without access is refused from its headers, before its body arrives.
func TestHandler_ChecksAccessBeforeTheBody(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	for flags, want := range map[string]int{"--allow=codat": 403, "--authorization=x": 401, "--client-id=x": 401} {
		g := run(t, settings(t, "nats://127.0.0.1:1", k, flags))
		conn := dial(t, g.address, head(post(g.url, k, "msg_1", "{}"))+"Content-Length: 1000\r\n\r\n{")
		if got := status(t, conn); got != want {
			t.Errorf("%s: answered %d before the body had come; want %d", flags, got, want)
		}
	}
}

// An address over the limit of unauthenticated requests is answered 503. Verified requests do not count, and Codat's own
// addresses have no limit.
func TestHandler_LimitsUnauthenticatedRequests(t *testing.T) {
	t.Parallel()
	ours, theirs := newKey(t, "us"), newKey(t, "another")
	server := streamtest.New(t)
	// So low that no request is allowed again during the test.
	g := run(t, settings(t, server.URL, ours, "--unproven-rate", "0.001", "--trusted-proxy", "127.0.0.1"))
	g.waitReady(t)
	from := func(address string) http.Header { return http.Header{"X-Forwarded-For": {address}} }
	const limited, other, codat = "192.0.2.1", "192.0.2.2", "20.117.190.191"
	g.testAccess(t, ours, []accessTest{
		{"a verified request", from(limited), 204, ""},
		{"again", from(limited), 204, ""},
	})
	for _, age := range []time.Duration{time.Hour, -time.Hour} { // a clock is wrong: that is its own alarm
		late := post(g.url, ours, "msg_late", event("company.created"))
		late.Header.Set("X-Forwarded-For", limited)
		sign(late.Header, ours, "msg_late", time.Now().Add(-age), event("company.created"))
		if got := send(t, late); got.status != 401 {
			t.Errorf("what was signed %v ago is answered %d; want 401", age, got.status)
		}
		g.line(t) // it comes after the response
	}
	g.testAccess(t, theirs, []accessTest{{"a forgery", from(limited), 401, "no_match"}, {"again", from(limited), 503, "rate_limited"}})
	g.testAccess(t, ours, []accessTest{{"a verified request from this address", from(limited), 503, "rate_limited"}, {"a verified request from another address", from(other), 204, ""}})
	g.testAccess(t, theirs, []accessTest{{"a forgery from Codat", from(codat), 401, "no_match"}, {"again", from(codat), 401, "no_match"}})
	g.testAccess(t, ours, []accessTest{{"a verified request from Codat", from(codat), 204, ""}})
	for class, want := range map[string]float64{"public": 1, "": 3} { // the source has the name of the other class
		if got := g.value(t, "unmatched_signatures_total", class); got != want {
			t.Errorf("unmatched_signatures_total{from=%q} = %v; want %v", class, got, want)
		}
	}
}

// Requests to other paths, by other methods and without a complete head count for the limit of their address, and are
// limited by it.
func TestServer_LimitsRequestsOfAnyPathAndMethod(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	for name, tt := range map[string]struct {
		text  string
		first int
	}{
		"another path":   {"POST /wp-login.php HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 404},
		"GET":            {"GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n", 405},
		"another method": {"DELETE " + path + " HTTP/1.1\r\nHost: x\r\n\r\n", 405},
		"not HTTP":       {"hello\r\n\r\n", 400},
		"header lines":   {"GET / HTTP/1.1\r\n" + strings.Repeat("a: b\r\n", 101), 431},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// So low that no request is allowed again during the test.
			g := run(t, settings(t, server.URL, k, "--unproven-rate", "0.001"))
			g.waitReady(t)
			if got := send(t, post(g.url, k, "msg_"+name, event("company.created"))); got.status != 204 {
				t.Fatalf("a verified request is answered %d; want 204", got.status)
			}
			if got := status(t, dial(t, g.address, tt.text)); got != tt.first {
				t.Errorf("the first is answered %d; want %d", got, tt.first)
			}
			if tt.first == 400 || tt.first == 431 {
				streamtest.Wait(t, func() bool { return g.value(t, "unread_requests_total", "") == 1 }, "it is counted")
			}
			for what, text := range map[string]string{
				"another path": "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "another method": "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n",
				"a verified request": head(post(g.url, k, "msg_more", "{}")) + "Content-Length: 2\r\n\r\n{}",
			} {
				if got := status(t, dial(t, g.address, text)); got != 503 {
					t.Errorf("then %s is answered %d; want 503", what, got)
				}
			}
		})
	}
}

// A testCA signs certificates.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newCA(t testing.TB, name string) *testCA {
	t.Helper()
	ca := &testCA{}
	ca.key = newECKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &ca.key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ca.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return ca
}

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// issue returns a certificate for a name and its key, both in PEM.
func (ca *testCA) issue(t testing.TB, name string, until time.Time) (cert, key string) {
	t.Helper()
	k := newECKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &k.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}))
}

// visit posts an event over TLS, and returns the status and the name in the server's certificate.
func visit(g *instance, k testKey, ca *testCA, own ...tls.Certificate) (status int, name string, err error) {
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	c := &http.Client{Timeout: timeout, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: own},
		ForceAttemptHTTP2: true,
	}}
	resp, err := c.Do(post("https://"+g.address+path, k, signature.NewID(), event("company.created")))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 1 {
		return 0, "", fmt.Errorf("spoken is %s; want HTTP/1.1", resp.Proto)
	}
	return resp.StatusCode, resp.TLS.PeerCertificates[0].Subject.CommonName, nil
}

func TestRun_ServesTLS(t *testing.T) {
	t.Parallel()
	k, ca, other := newKey(t, "us"), newCA(t, "ours"), newCA(t, "theirs")
	dir := t.TempDir()
	certFile, keyFile, clientFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")
	cert, secret := ca.issue(t, "first", time.Now().Add(time.Hour))
	write(t, certFile, cert)
	write(t, keyFile, secret)
	write(t, clientFile, ca.pem)
	server := streamtest.New(t)
	own := func(by *testCA) tls.Certificate {
		t.Helper()
		cert, secret := by.issue(t, "codat", time.Now().Add(time.Hour))
		pair, err := tls.X509KeyPair([]byte(cert), []byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}

	t.Run("certificates are watched", func(t *testing.T) {
		g := run(t, settings(t, server.URL, k, "--tls-cert", certFile, "--tls-key", keyFile))
		g.waitReady(t)
		if status, name, err := visit(g, k, ca); status != 204 || name != "first" || err != nil {
			t.Fatalf("answered %d by %s, %v; want 204 by first", status, name, err)
		}
		replace(t, certFile, "not a certificate")
		streamtest.Wait(t, func() bool { return g.value(t, "file_problems", "") == 1 }, "the problem is seen")
		if status, name, err := visit(g, k, ca); status != 204 || name != "first" || err != nil {
			t.Errorf("with a broken file answered %d by %s, %v; want 204 by first", status, name, err)
		}
		cert, secret := ca.issue(t, "second", time.Now().Add(2*time.Hour))
		replace(t, keyFile, secret)
		replace(t, certFile, cert)
		streamtest.Wait(t, func() bool { _, name, _ := visit(g, k, ca); return name == "second" }, "the second certificate is shown")
		streamtest.Wait(t, func() bool { return g.value(t, "file_problems", "") == 0 }, "no problem is left")
		if ends := g.value(t, "certificate_end_timestamp_seconds", ""); time.Until(time.Unix(int64(ends), 0)) < time.Hour {
			t.Errorf("certificate_end_timestamp_seconds = %v; want that of the second", ends)
		}
		cert, secret = ca.issue(t, "third", time.Now().Add(-time.Hour))
		replace(t, keyFile, secret)
		replace(t, certFile, cert)
		streamtest.Wait(t, func() bool { return g.value(t, "file_problems", "") == 1 }, "an ended certificate is a problem")
		g.waitReady(t) // what comes will tell
	})

	t.Run("clients show one", func(t *testing.T) {
		cert, secret := ca.issue(t, "first", time.Now().Add(time.Hour))
		write(t, certFile, cert)
		write(t, keyFile, secret)
		g := run(t, settings(t, server.URL, k, "--tls-cert", certFile, "--tls-key", keyFile, "--tls-client-ca", clientFile))
		g.waitReady(t)
		if status, _, err := visit(g, k, ca, own(ca)); status != 204 || err != nil {
			t.Errorf("with one answered %d, %v; want 204", status, err)
		}
		g.logs.TakeAll()
		if status, _, err := visit(g, k, ca); status != 403 || err != nil {
			t.Errorf("without one answered %d, %v; want 403", status, err)
		}
		if _, line := g.line(t); line["reason"] != "client_certificate" {
			t.Errorf("logged reason %v; want client_certificate", line["reason"])
		}
		if status, _, err := visit(g, k, ca, own(other)); err == nil && status != 403 {
			t.Errorf("with another's answered %d; want 403 or none", status)
		}
		// A client shows only what the server asks for: force it.
		forced := own(other)
		conn, err := tls.Dial("tcp", g.address, &tls.Config{
			InsecureSkipVerify:   true,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &forced, nil },
		})
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if err == nil {
			t.Error("another's certificate was taken")
		}
		streamtest.Wait(t, func() bool { return g.value(t, "tls_refusals_total", "") >= 1 }, "the refusal is counted")
		replace(t, clientFile, other.pem)
		streamtest.Wait(t, func() bool { status, _, _ := visit(g, k, ca, own(other)); return status == 204 }, "the other CA is accepted after a reload")
	})

	t.Run("a client without TLS", func(t *testing.T) {
		g := run(t, settings(t, server.URL, k, "--tls-cert", certFile, "--tls-key", keyFile))
		if got := send(t, post(g.url, k, "msg_1", "{}")); got.status != 400 {
			t.Errorf("answered %d; want 400", got.status)
		}
	})
}
