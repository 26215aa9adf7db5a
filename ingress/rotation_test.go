package ingress_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func write(t testing.TB, name string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace puts a file with other lines in the place of one, as whoever writes files with care does.
func replace(t testing.TB, name string, lines ...string) {
	t.Helper()
	write(t, name+".new", lines...)
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// A secretVolume is a folder as Kubernetes mounts a Secret: files are links into ..data, which is a link to a folder
// that is replaced as a whole.
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

// filed is a gate whose keys are in files.
func filed(t testing.TB, nats string, files ...string) *gate {
	t.Helper()
	return run(t, parsed(t, "--secret-file", strings.Join(files, ","), "--nats-url", nats))
}

// waitKeys waits until these keys count, and no others. Each is a series of the metric before a request matched it.
func (g *gate) waitKeys(t testing.TB, keys ...pair) {
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

func TestKeysRotateWithoutARestart(t *testing.T) {
	a, b := key(t, "a"), key(t, "b")
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
			g := filed(t, server.URL, name)
			g.waitReady(t)
			check := func(k pair, want int) {
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

// What cannot be read now is as it was; it is seen in log, metric and readiness, and does not make the ingress
// not ready. What can be read counts.
func TestABrokenFileKeepsItsKeys(t *testing.T) {
	a, b, c := key(t, "a"), key(t, "b"), key(t, "c")
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	write(t, one, a.text)
	write(t, two, b.text)
	server := streamtest.New(t)
	g := filed(t, server.URL, one, two)
	g.waitReady(t)
	g.waitKeys(t, a, b)
	ready := g.readyz(t)

	secret := c.text[:len(c.text)-7] // cut within a group of base64
	for _, broken := range []struct{ name, text, says string }{
		{"cut", secret, "line 1: key"},
		{"empty", "", "no key in it"},
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
			streamtest.Wait(t, func() bool {
				got := ready()
				return got.status == 200 && strings.Contains(got.body, "WARN  files: ") && strings.Contains(got.body, broken.says)
			}, "readiness warns: "+broken.says)
			if g.value(t, "file_problems", "") != 1 {
				t.Errorf("file_problems = %v; want 1", g.value(t, "file_problems", ""))
			}
			if n := g.logs.FilterMessageSnippet("a file cannot be used").Len(); n == 0 {
				t.Error("the log does not say that a file cannot be used")
			}
			for _, k := range []pair{a, b} {
				if got := send(t, post(g.url, k, "msg_"+broken.name+k.Fingerprint(), event("company.created"))); got.status != 204 {
					t.Errorf("answered %d under a key from before; want 204", got.status)
				}
			}
		})
	}
	replace(t, two, c.text)
	g.waitKeys(t, a, c)
	replace(t, one, b.text)
	g.waitKeys(t, b, c)
	streamtest.Wait(t, func() bool { return !strings.Contains(ready().body, "WARN") }, "readiness warns no more")
	if g.value(t, "file_problems", "") != 0 {
		t.Errorf("file_problems = %v when all is well; want 0", g.value(t, "file_problems", ""))
	}
	all := fmt.Sprint(g.logs.All())
	for _, k := range []pair{a, b, c} {
		if strings.Contains(all, k.text[len("whsec_"):len(k.text)-8]) {
			t.Error("the log has a key in it")
		}
	}
}

// Of thousands of requests that are sent while the keys change twice, each under a key that counts then, none is
// refused.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	const requests, senders = 5000, 8
	keys := []pair{key(t, "first"), key(t, "second"), key(t, "third")}
	volume := secretVolume{dir: t.TempDir()}
	volume.put(t, map[string]string{"key": keys[0].text})
	server := streamtest.New(t)
	g := filed(t, server.URL, volume.dir)
	g.waitReady(t)

	// Whoever sends reads the lock: while it is held for writing no request is on its way.
	var way sync.RWMutex
	current := keys[0]
	var sent, accepted, refused atomic.Int64
	var rotated atomic.Bool
	transport := &http.Transport{MaxIdleConnsPerHost: senders}
	defer transport.CloseIdleConnections()
	keepAlive := &http.Client{Transport: transport, Timeout: patience}
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
	rotate := func(before, after pair, at int64) {
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
