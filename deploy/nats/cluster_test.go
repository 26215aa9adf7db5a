package nats_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/embedded"
)

// Every configuration stores durably, takes the largest webhook, and knows the same users.
func TestConfigurationsAgree(t *testing.T) {
	in := install(t)
	newCertificates(t).setenv(t)
	want, err := in.parse(t, "server.conf", "nats-1")
	if err != nil {
		t.Fatal(err)
	}
	if !want.SyncAlways {
		t.Error("an acknowledged event may not be on disk: sync_interval is not always")
	}
	if want.MaxPayload != embedded.MaxPayload {
		t.Errorf("max_payload = %d; want %d, as headgate dev has it", want.MaxPayload, embedded.MaxPayload)
	}
	for _, file := range []string{"cluster.conf", "secure.conf"} {
		got, err := in.parse(t, file, "nats-1")
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if got.Cluster.Name != "headgate" || got.Cluster.Port != 6222 || len(got.Routes) != 3 || got.Cluster.Password == "" {
			t.Errorf("%s: the cluster is %s on port %d with %d routes, password %t; want headgate, 6222, 3, true",
				file, got.Cluster.Name, got.Cluster.Port, len(got.Routes), got.Cluster.Password != "")
		}
		type shared struct {
			Name, Store           string
			Sync                  bool
			Payload               int32
			Memory, Disk          int64
			Port, HTTP, Users     int
			LameDuck, Ping, Write time.Duration
		}
		of := func(o *server.Options) shared {
			return shared{
				o.ServerName, o.StoreDir, o.SyncAlways, o.MaxPayload, o.JetStreamMaxMemory, o.JetStreamMaxStore,
				o.Port, o.HTTPPort, len(o.Nkeys), o.LameDuckDuration, o.PingInterval, o.WriteDeadline,
			}
		}
		if diff := cmp.Diff(of(want), of(got)); diff != "" {
			t.Errorf("%s differs from server.conf (-want +got):\n%s", file, diff)
		}
	}
}

// cluster starts three servers of one configuration file, and returns where they store.
func cluster(t *testing.T, file string) (installation, []*node, []string) {
	t.Helper()
	ports := []int{freePort(t), freePort(t), freePort(t)}
	var args []string
	for _, port := range ports {
		args = append(args, "--server", fmt.Sprintf("127.0.0.1:%d", port))
	}
	in := install(t, args...)
	var nodes []*node
	var stores []string
	for i, port := range ports {
		o := in.options(t, file, fmt.Sprintf("nats-%d", i+1))
		o.Cluster.Host, o.Cluster.Port = "127.0.0.1", port
		nodes, stores = append(nodes, start(t, o)), append(stores, o.StoreDir)
	}
	for i, n := range nodes {
		healthy := func() bool { return n.NumRoutes() > 0 && n.Healthz(&server.HealthzOptions{}).StatusCode == 200 }
		wait(t, healthy, fmt.Sprintf("server %d is a part of the cluster", i+1))
	}
	return in, nodes, stores
}

// deed is what provision leaves in the stream of the operators' deeds.
var deed = []byte(`"command":"provision"`)

func TestClusterStoresThreeCopies(t *testing.T) {
	in, nodes, stores := cluster(t, "cluster.conf")
	out := headgate(t, in.as(nodes[0], "provision"), "provision", "--replicas", "3")
	if !strings.Contains(out, "replicas: 3") {
		t.Errorf("provision prints\n%s\nwant 3 replicas", out)
	}
	for i, store := range stores {
		wait(t, func() bool { return holds(t, store, deed) }, fmt.Sprintf("server %d has its copy", i+1))
	}

	// Who does not know the password is no part of it.
	var args []string
	for _, n := range nodes {
		args = append(args, "--server", n.ClusterAddr().String())
	}
	stranger := install(t, args...).options(t, "cluster.conf", "nats-4")
	stranger.Cluster.Host, stranger.Cluster.Port = "127.0.0.1", server.RANDOM_PORT
	start(t, stranger)
	wait(t, func() bool {
		for _, n := range nodes {
			if len(n.said.about("authentication error")) > 0 {
				return true
			}
		}
		return false
	}, "a stranger is refused")
	// The stranger itself counts a server from its greeting to its refusal; the servers count whom they let in.
	for i, n := range nodes {
		if got, want := n.NumRemotes(), len(nodes)-1; got > want {
			t.Errorf("server %d has %d others in its cluster; want %d", i+1, got, want)
		}
	}
}

func TestSecureClusterTakesCertificatesAndEncrypts(t *testing.T) {
	certs := newCertificates(t)
	certs.setenv(t)
	in, nodes, stores := cluster(t, "secure.conf")

	bare := in.as(nodes[0], "provision")
	withCA := append(bare, "NATS_CA="+certs.ca)
	for what, env := range map[string][]string{"a client that does not know the CA": bare, "a client without a certificate": withCA} {
		if out, err := tryHeadgate(t, append(env, "HEADGATE_CONNECT_TIMEOUT=2s"), "provision"); err == nil {
			t.Errorf("%s is let in:\n%s", what, out)
		}
	}
	headgate(t, append(withCA, "NATS_CERT="+certs.client, "NATS_KEY="+certs.clientKey), "provision", "--replicas", "3")
	nc, err := stream.Connect(t.Context(), stream.NATS{
		NATSURL: nodes[1].url(), NATSNKey: in.seed("ingress"), NATSCA: certs.ca, NATSCert: certs.client, NATSKey: certs.clientKey,
	}, "ingress", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := stream.Connected(within(t), nc); err != nil {
		t.Fatal(err)
	}
	publisher, err := stream.NewPublisher(nc, stream.PublisherOptions{Window: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer publisher.Close()
	body := []byte(`{"marker":"in clear text"}`)
	if _, err := publisher.Publish(within(t), &nats.Msg{Subject: "codat.quarantine", Data: body}); err != nil {
		t.Fatal(err)
	}
	for i, store := range stores {
		for _, text := range [][]byte{deed, body} {
			if holds(t, store, text) {
				t.Errorf("server %d stores %s in clear text", i+1, text)
			}
		}
	}
}

// holds reports whether a file under a folder has this text.
func holds(t *testing.T, folder string, text []byte) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // servers rename and remove files while they run
		}
		content, err := os.ReadFile(path)
		found = found || err == nil && bytes.Contains(content, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// certificates are files of a CA, of servers and of clients.
type certificates struct{ ca, server, serverKey, client, clientKey string }

func (c certificates) setenv(t *testing.T) {
	t.Helper()
	t.Setenv("NATS_TLS_CA", c.ca)
	t.Setenv("NATS_TLS_CERT", c.server)
	t.Setenv("NATS_TLS_KEY", c.serverKey)
}

func newCertificates(t *testing.T) certificates {
	t.Helper()
	folder := t.TempDir()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	template := func(name string, serial int64) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, SerialNumber: big.NewInt(serial),
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
	}
	caKey, ca := newKey(), template("CA", 1)
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	issue := func(c *x509.Certificate, key *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	pair := func(name string, serial int64) (string, string) {
		key, c := newKey(), template(name, serial)
		c.KeyUsage = x509.KeyUsageDigitalSignature
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} // a server is a client of the others
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return write(name+".crt", "CERTIFICATE", issue(c, key)), write(name+".key", "PRIVATE KEY", der)
	}
	all := certificates{ca: write("ca.crt", "CERTIFICATE", issue(ca, caKey))}
	all.server, all.serverKey = pair("server", 2)
	all.client, all.clientKey = pair("client", 3)
	return all
}
