package ingress_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func write(t testing.TB, name string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace replaces a file by another one, by a rename.
func replace(t testing.TB, name string, lines ...string) {
	t.Helper()
	write(t, name+".new", lines...)
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// A secretVolume is a folder as Kubernetes mounts a Secret: files are links into ..data, which is a link to a folder that is
// replaced as a whole.
type secretVolume struct {
	dir      string
	versions int
}

func (v *secretVolume) put(t testing.TB, content map[string]string) {
	t.Helper()
	v.versions++
	version := fmt.Sprintf("..2026_01_02_03_04_%02d", v.versions)
	if err := os.Mkdir(filepath.Join(v.dir, version), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range content {
		write(t, filepath.Join(v.dir, version, name), text)
	}
	before, _ := os.Readlink(filepath.Join(v.dir, "..data"))
	if err := os.Symlink(version, filepath.Join(v.dir, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(v.dir, "..data_tmp"), filepath.Join(v.dir, "..data")); err != nil {
		t.Fatal(err)
	}
	for name := range content {
		if _, err := os.Lstat(filepath.Join(v.dir, name)); err != nil {
			if err := os.Symlink(filepath.Join("..data", name), filepath.Join(v.dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	entries, err := os.ReadDir(v.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, still := content[e.Name()]; !still && !strings.HasPrefix(e.Name(), "..") {
			_ = os.Remove(filepath.Join(v.dir, e.Name()))
		}
	}
	if before != "" {
		_ = os.RemoveAll(filepath.Join(v.dir, before))
	}
}

// runWithFiles runs an ingress whose keys are in files.
func runWithFiles(t testing.TB, nats string, files ...string) *instance {
	t.Helper()
	return run(t, parsed(t, "--secret-file", strings.Join(files, ","), "--nats-url", nats))
}

// waitKeys waits until exactly these keys have a series in the metric of keys.
func (g *instance) waitKeys(t testing.TB, keys ...testKey) {
	t.Helper()
	want := map[string]bool{}
	for _, k := range keys {
		want[k.Fingerprint()] = true
	}
	streamtest.Wait(t, func() bool {
		got := g.labels(t, "key_matches_total", "key")
		if len(got) != len(want) {
			return false
		}
		for _, print := range got {
			if !want[print] {
				return false
			}
		}
		return true
	}, fmt.Sprintf("the keys are %v", keys))
}

func TestRun_RotatesKeysWithoutARestart(t *testing.T) {
	t.Parallel()
	a, b := newKey(t, "a"), newKey(t, "b")
	tests := []struct {
		name string
		// begin makes what --secret-file names, with a; the steps then have both, and b alone.
		begin func(t *testing.T, dir string) (name string, both, second func())
	}{
		{"a file that is renamed over", func(t *testing.T, dir string) (string, func(), func()) {
			name := filepath.Join(dir, "keys")
			write(t, name, a.text)
			return name, func() { replace(t, name, a.text, b.text) }, func() { replace(t, name, b.text) }
		}},
		{"a file that is written anew in its place", func(t *testing.T, dir string) (string, func(), func()) {
			name := filepath.Join(dir, "keys")
			write(t, name, a.text)
			return name, func() { write(t, name, a.text, b.text) }, func() { write(t, name, b.text) }
		}},
		{"a folder", func(t *testing.T, dir string) (string, func(), func()) {
			write(t, filepath.Join(dir, "old"), a.text)
			write(t, filepath.Join(dir, ".hidden"), "not a key")
			return dir, func() { write(t, filepath.Join(dir, "new"), b.text) }, func() {
				if err := os.Remove(filepath.Join(dir, "old")); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"a folder of Kubernetes", func(t *testing.T, dir string) (string, func(), func()) {
			v := secretVolume{dir: dir}
			v.put(t, map[string]string{"one": a.text})
			return dir, func() { v.put(t, map[string]string{"one": a.text, "two": b.text}) }, func() { v.put(t, map[string]string{"two": b.text}) }
		}},
		{"a file in a folder of Kubernetes", func(t *testing.T, dir string) (string, func(), func()) {
			v := secretVolume{dir: dir}
			v.put(t, map[string]string{"keys": a.text})
			return filepath.Join(dir, "keys"), func() { v.put(t, map[string]string{"keys": a.text + "\n" + b.text}) }, func() { v.put(t, map[string]string{"keys": b.text}) }
		}},
		{"a link to a file elsewhere", func(t *testing.T, dir string) (string, func(), func()) {
			target := filepath.Join(t.TempDir(), "target")
			write(t, target, a.text)
			name := filepath.Join(dir, "keys")
			if err := os.Symlink(target, name); err != nil {
				t.Fatal(err)
			}
			return name, func() { replace(t, target, a.text, b.text) }, func() { replace(t, target, b.text) }
		}},
	}
	server := streamtest.New(t)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name, both, second := tt.begin(t, t.TempDir())
			g := runWithFiles(t, server.URL, name)
			g.waitReady(t)
			check := func(k testKey, want int) {
				t.Helper()
				if got := send(t, post(g.url, k, fmt.Sprintf("msg_%d_%s_%d", i, k.Fingerprint(), want), event("company.created"))); got.status != want {
					t.Errorf("answered %d; want %d", got.status, want)
				}
			}
			g.waitKeys(t, a)
			check(a, 204)
			check(b, 401)
			both()
			g.waitKeys(t, a, b)
			check(a, 204)
			check(b, 204)
			second()
			g.waitKeys(t, b)
			check(b, 204)
			check(a, 401)
		})
	}
}

// waitFileProblem waits until the log has a problem with a file whose error contains a text, and the metric counts one.
func (g *instance) waitFileProblem(t testing.TB, text string) {
	t.Helper()
	streamtest.Wait(t, func() bool {
		logged := false
		for _, entry := range g.logs.FilterMessageSnippet("a file cannot be used").All() {
			message, _ := entry.ContextMap()["error"].(string)
			logged = logged || strings.Contains(message, text)
		}
		return logged && g.value(t, "file_problems", "") == 1
	}, "a problem with a file is logged and counted: "+text)
}

// A file that cannot be read keeps its keys. Log, metric and readiness show it, and the ingress stays ready. The other files
// are reloaded.
func TestRun_KeepsTheKeysOfAFileThatCannotBeRead(t *testing.T) {
	t.Parallel()
	a, b, c := newKey(t, "a"), newKey(t, "b"), newKey(t, "c")
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	write(t, one, a.text)
	write(t, two, b.text)
	server := streamtest.New(t)
	g := runWithFiles(t, server.URL, one, two)
	g.waitReady(t)
	g.waitKeys(t, a, b)
	ready := g.readyz(t)

	secret := c.text[:len(c.text)-7] // cut within a group of base64
	for _, broken := range []struct{ name, text, wantErr string }{
		{"cut", secret, "line 1: key"},
		{"empty", "", "contains no key"},
		{"gone", "", "no such file"},
	} {
		t.Run(broken.name, func(t *testing.T) {
			if broken.name == "gone" {
				if err := os.Remove(one); err != nil {
					t.Fatal(err)
				}
			} else {
				replace(t, one, broken.text)
			}
			g.waitFileProblem(t, broken.wantErr)
			for _, k := range []testKey{a, b} {
				if got := send(t, post(g.url, k, "msg_"+broken.name+k.Fingerprint(), event("company.created"))); got.status != 204 {
					t.Errorf("answered %d under a key from before; want 204", got.status)
				}
			}
		})
	}
	streamtest.Wait(t, func() bool {
		got := ready()
		return got.status == 200 && strings.Contains(got.body, "WARN  files: ") && strings.Contains(got.body, "no such file")
	}, "readiness warns and names the file's problem")
	replace(t, two, c.text)
	g.waitKeys(t, a, c)
	replace(t, one, b.text)
	g.waitKeys(t, b, c)
	streamtest.Wait(t, func() bool { return !strings.Contains(ready().body, "WARN") }, "readiness no longer warns")
	if g.value(t, "file_problems", "") != 0 {
		t.Errorf("file_problems = %v when all is well; want 0", g.value(t, "file_problems", ""))
	}
	all := fmt.Sprint(g.logs.All())
	for _, k := range []testKey{a, b, c} {
		if strings.Contains(all, k.text[len("whsec_"):len(k.text)-8]) {
			t.Error("the log has a key in it")
		}
	}
}

// Of thousands of requests during two rotations, each under a key that is configured at that time, none is refused.
func TestRun_RotatesKeysUnderLoad(t *testing.T) {
	t.Parallel()
	const requests, senders = 5000, 8
	keys := []testKey{newKey(t, "first"), newKey(t, "second"), newKey(t, "third")}
	volume := secretVolume{dir: t.TempDir()}
	volume.put(t, map[string]string{"key": keys[0].text})
	server := streamtest.New(t)
	g := runWithFiles(t, server.URL, volume.dir)
	g.waitReady(t)

	// A sender holds the lock for reading: while it is held for writing no request is in flight.
	var way sync.RWMutex
	current := keys[0]
	var sent, accepted, refused atomic.Int64
	var rotated atomic.Bool
	transport := &http.Transport{MaxIdleConnsPerHost: senders}
	defer transport.CloseIdleConnections()
	keepAlive := &http.Client{Transport: transport, Timeout: timeout}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for ctx.Err() == nil {
				n := sent.Add(1)
				if n > requests && rotated.Load() {
					return
				}
				way.RLock()
				resp, err := keepAlive.Do(post(g.url, current, fmt.Sprintf("msg_%d", n), event("company.created")))
				way.RUnlock()
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				if resp.StatusCode != 204 {
					refused.Add(1)
				} else {
					accepted.Add(1)
				}
			}
		})
	}
	rotate := func(before, after testKey, at int64) {
		streamtest.Wait(t, func() bool { return sent.Load() > at }, "enough is sent")
		volume.put(t, map[string]string{"key": before.text, "next": after.text})
		g.waitKeys(t, before, after)
		way.Lock()
		current = after
		way.Unlock()
		volume.put(t, map[string]string{"next": after.text})
		g.waitKeys(t, after)
	}
	rotate(keys[0], keys[1], requests/10)
	rotate(keys[1], keys[2], requests/2)
	rotated.Store(true)
	wg.Wait()
	if n := refused.Load(); n != 0 {
		t.Errorf("%d requests were refused; want none", n)
	}
	if n := accepted.Load(); n < requests || g.value(t, "requests_total", "accepted") != float64(n) {
		t.Errorf("%d requests were answered 204, and %v counted; want at least %d", n, g.value(t, "requests_total", "accepted"), requests)
	}
}

// A file of client CAs of which a part cannot be read keeps all of its previous CAs.
func TestRun_KeepsTheClientCAsOfAFileThatCannotBeRead(t *testing.T) {
	t.Parallel()
	k, ca, other := newKey(t, "us"), newCA(t, "ours"), newCA(t, "theirs")
	dir := t.TempDir()
	certFile, keyFile, clientFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")
	cert, secret := ca.issue(t, "first", time.Now().Add(time.Hour))
	write(t, certFile, cert)
	write(t, keyFile, secret)
	write(t, clientFile, ca.pem+other.pem)
	g := run(t, settings(t, streamtest.New(t).URL, k, "--tls-cert", certFile, "--tls-key", keyFile, "--tls-client-ca", clientFile))
	g.waitReady(t)
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
	for _, broken := range []struct{ name, text, wantErr string }{
		{"the second is cut", ca.pem + other.pem[:len(other.pem)/2], "part of a certificate"},
		{"the first is cut", ca.pem[:len(ca.pem)/2] + "\n" + other.pem, "part of a certificate"},
		{"the second cannot be read", ca.pem + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "x509"},
	} {
		t.Run(broken.name, func(t *testing.T) {
			g.logs.TakeAll()
			replace(t, clientFile, broken.text)
			g.waitFileProblem(t, broken.wantErr)
			both(t)
			replace(t, clientFile, other.pem+"\n"+ca.pem)
			streamtest.Wait(t, func() bool { return g.value(t, "file_problems", "") == 0 }, "all files can be used")
			both(t)
		})
	}
}
