package nats_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/headgate/headgate/pkg/stream/embedded"
)

// Every configuration stores durably, takes the largest webhook, and has the same users.
func TestConfigurations_Agree(t *testing.T) {
	t.Parallel()
	in := install(t)
	want, err := in.parse("server.conf")
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
		got, err := in.parse(file)
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

// cluster starts three servers of one configuration file, and returns where they store. keysArgs are for headgate keys:
// with a team, its account is there too.
func cluster(t *testing.T, file string, keysArgs []string, more ...func(*server.Options)) (installation, []*node, []string) {
	t.Helper()
	ports := []int{freePort(t), freePort(t), freePort(t)}
	args := slices.Clone(keysArgs)
	for _, port := range ports {
		args = append(args, "--server", fmt.Sprintf("127.0.0.1:%d", port))
	}
	in := install(t, args...)
	if slices.Contains(args, "--team") {
		in = in.withTeam(t)
	}
	var nodes []*node
	var stores []string
	for i, port := range ports {
		o := in.options(t, file, fmt.Sprintf("nats-%d", i+1))
		o.Cluster.Host, o.Cluster.Port = "127.0.0.1", port
		for _, change := range more {
			change(o)
		}
		nodes, stores = append(nodes, start(t, o)), append(stores, o.StoreDir)
	}
	for i, n := range nodes {
		healthy := func() bool { return n.NumRoutes() > 0 && n.Healthz(&server.HealthzOptions{}).StatusCode == 200 }
		wait(t, healthy, fmt.Sprintf("server %d is a part of the cluster", i+1))
	}
	return in, nodes, stores
}

// certificates are files of a CA, of servers and of clients.
type certificates struct{ ca, server, serverKey, client, clientKey string }

// certs are the certificates that the environment of secure.conf names, made once.
var certs certificates

// makeCertificates writes certificates into a folder.
func makeCertificates(folder string) (all certificates, err error) {
	fail := func(e error) { err = errors.Join(err, e) }
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(folder, name)
		fail(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return file
	}
	newKey := func() *ecdsa.PrivateKey {
		key, e := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		fail(e)
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
		der, e := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
		fail(e)
		return der
	}
	pair := func(name string, serial int64) (string, string) {
		key, c := newKey(), template(name, serial)
		c.KeyUsage = x509.KeyUsageDigitalSignature
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} // a server is a client of the others
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		der, e := x509.MarshalPKCS8PrivateKey(key)
		fail(e)
		return write(name+".crt", "CERTIFICATE", issue(c, key)), write(name+".key", "PRIVATE KEY", der)
	}
	all = certificates{ca: write("ca.crt", "CERTIFICATE", issue(ca, caKey))}
	all.server, all.serverKey = pair("server", 2)
	all.client, all.clientKey = pair("client", 3)
	return all, err
}
