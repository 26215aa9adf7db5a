//go:build faults

package faults

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/test/flood"
)

// An ingress with its default settings and the memory of its manifest receives real requests, over connections that stay
// open and over new ones, while clients without a key send what they can: it refuses no real request, stores nothing else,
// lives, and writes a limited log.
func TestPromise2_FloodsRefuseNoRealRequest(t *testing.T) {
	// The flood fills the 2,048 connections of the ingress, and fills them again every 2.5 s, which is the time that a real
	// client has to send its request.
	for _, kind := range flood.Kinds() {
		t.Run(kind.Name, func(t *testing.T) { floodIngress(t, kind, flood.Options{Conns: 3000, Rate: 800}) })
	}
	// A handshake needs much more CPU time than a request.
	t.Run("header lines over TLS", func(t *testing.T) {
		floodIngress(t, flood.Kinds()[0], flood.Options{Conns: 50, Rate: 200, TLS: &tls.Config{InsecureSkipVerify: true}})
	})
}

func floodIngress(t *testing.T, kind flood.Kind, o flood.Options) {
	const real = 300
	b := newBroker(t, 1, stream.Layout{})
	var in *ingress
	codatSends, keyFile := newSender(t, func() string { return in.host() })
	args := []string{"--nats-url", b.url, "--secret-file", keyFile}
	if o.TLS != nil {
		certificate, key := newCertificate(t)
		args = append(args, "--tls-cert", certificate, "--tls-key", key)
		codatSends.scheme = "https"
	}
	kept := &http.Transport{MaxConnsPerHost: 1, TLSClientConfig: o.TLS}
	t.Cleanup(kept.CloseIdleConnections)
	codatSends.client.Transport = &alternate{kept: kept, fresh: &http.Transport{DisableKeepAlives: true, TLSClientConfig: o.TLS}}
	in, memory := newLimitedIngress(t, args...)
	in.waitReady()
	o.Address = in.public

	began := time.Now()
	f := flood.Start(kind, o)
	defer f.Stop()
	flooded := func(times int) {
		t.Helper()
		wait(t, func() bool { return f.Begun() >= int64(times*o.Conns) }, func() string {
			return fmt.Sprintf("the flood has made %d connections %d times: it has made %d", o.Conns, times, f.Begun())
		})
	}
	flooded(1)
	stop := codatSends.flow(4, anything)
	codatSends.progress(real)
	flooded(2)
	stop()
	memory()
	if counts := codatSends.counts(); len(counts) != 1 || counts[http.StatusNoContent] == 0 {
		t.Errorf("answers %v; want nothing but 204 (0: no answer: %v)", counts, codatSends.err)
	}
	if status, says := in.probe("/livez"); status != http.StatusOK {
		t.Errorf("the ingress is not alive: %d %s", status, says)
	}
	logIsLimited(t, in, time.Since(began))
	f.Stop()
	codatSends.inTime()
	codatSends.stored(b.js)
}

// An alternate sends every second request over a connection that stays open, and the others over new ones.
type alternate struct {
	kept, fresh http.RoundTripper
	n           atomic.Int64
}

func (a *alternate) RoundTrip(req *http.Request) (*http.Response, error) {
	if a.n.Add(1)%2 == 0 {
		return a.kept.RoundTrip(req)
	}
	return a.fresh.RoundTrip(req)
}

// newLimitedIngress starts an ingress in a cgroup with the memory limit of its manifest. Where no cgroup can be made, it
// gives the Go runtime the limit that it would take from one. memory checks the most memory that the process had.
func newLimitedIngress(t *testing.T, args ...string) (in *ingress, memory func()) {
	t.Helper()
	limit, err := flood.MemoryLimit("../..")
	if err != nil {
		t.Fatal(err)
	}
	public, admin := address(t), address(t)
	command := append([]string{build(t, "ingress"), "--listen", public, "--admin-listen", admin}, args...)
	group, err := flood.NewGroup(limit)
	if err != nil {
		t.Logf("the ingress runs without a cgroup: %v", err)
		t.Setenv("GOMEMLIMIT", strconv.FormatInt(limit/10*9, 10))
	} else {
		t.Cleanup(func() {
			if err := group.Close(); err != nil {
				t.Errorf("remove the cgroup: %v", err)
			}
		})
		command = group.Command(command[0], command[1:]...)
	}
	in = &ingress{launchCommand(t, "ingress", admin, command), public}
	return in, func() {
		t.Helper()
		resident := peakResident(t, in.cmd.Process.Pid)
		t.Logf("the ingress had %d MiB of %d MiB at most", resident>>20, limit>>20)
		if resident > limit {
			t.Errorf("the ingress had %d bytes of memory; want %d at most", resident, limit)
		}
		if group == nil {
			return
		}
		if killed, err := group.Killed(); killed > 0 || err != nil {
			t.Errorf("the kernel killed %d processes for their memory, %v; want none", killed, err)
		}
	}
}

// peakResident returns the most memory that a process had, in bytes.
func peakResident(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); !found || err != nil {
		t.Fatalf("the process has no VmHWM, as one that has ended: %v", err)
	}
	return kib << 10
}

// logIsLimited checks the size of the log: 100 lines a second for each reason, and for accepted requests.
func logIsLimited(t *testing.T, in *ingress, took time.Duration) {
	t.Helper()
	const reasons, lines, line = 4, 100, 600
	log, err := os.Stat(in.log)
	if err != nil {
		t.Fatal(err)
	}
	seconds := int64(took/time.Second) + 2
	if limit := seconds * reasons * lines * line; log.Size() > limit {
		t.Errorf("the log has %d bytes after %v; want %d at most", log.Size(), took, limit)
	}
}

// newCertificate makes files with a certificate that signs itself, and with its key.
func newCertificate(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	if err := errors.Join(
		os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return certificate, key
}
