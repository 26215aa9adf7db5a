package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// serveArgs are the arguments of headgate serve with free ports.
func serveArgs(data, keys string, args ...string) []string {
	return slices.Concat([]string{
		"serve", "--data-dir", data, "--secret-file", keys, "--drain-delay", "0s",
		"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0",
	}, args)
}

// addresses are where headgate serve listens.
type addresses struct{ webhook, admin, nats string }

// listens waits until headgate serve is ready, and reads from its log where it listens.
func listens(t testing.TB, log *screen) addresses {
	t.Helper()
	log.says(t, "public listener", "NATS server", "admin listener")
	at := map[string]string{}
	for _, l := range log.lines() {
		var entry struct{ Msg, Address string }
		if json.Unmarshal([]byte(l), &entry) == nil && at[entry.Msg] == "" {
			at[entry.Msg] = entry.Address
		}
	}
	a := addresses{
		webhook: "http://" + at["public listener"] + webhookPath,
		admin:   "http://" + at["admin listener"],
		nats:    "nats://" + at["NATS server"],
	}
	streamtest.Wait(t, func() bool {
		resp, err := http.Get(a.admin + "/readyz")
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}, "headgate serve is ready")
	return a
}

// newKeys makes a file with a signing secret.
func newKeys(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keys")
	if err := makeKey(name); err != nil {
		t.Fatal(err)
	}
	return name
}

// auditOf waits until headgate audit says a line of a worker.
func auditOf(t testing.TB, want string, args ...string) {
	t.Helper()
	streamtest.Wait(t, func() bool {
		c := begin(t, "", append([]string{"audit", "--settle", "1ms"}, args...)...)
		<-c.ended
		return c.code == 0 && strings.Contains(c.out.String(), want)
	}, "headgate audit says "+want)
}

func TestServe_RefusesSettingsBeforeItTouchesItsFolder(t *testing.T) {
	t.Parallel()
	write := func(text string) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name string
		args []string
		exit int
		says string
	}{
		{"no folder", []string{"--data-dir", ""}, 2, "--data-dir must name a folder"},
		{"a NATS address for other machines without users", []string{"--nats-listen", ":4222"}, 2, "--nats-users"},
		{"a NATS address without a port", []string{"--nats-listen", "here"}, 2, "--nats-listen must be host:port"},
		{"no file of users", []string{"--nats-users", "/nowhere"}, 2, "--nats-users"},
		{"an empty file of users", []string{"--nats-users", write("# later\n")}, 2, "no public nkey"},
		{"a seed in place of a public key", []string{"--nats-users", write("SUAMJ\n")}, 2, "it is a seed"},
		{"a user that is no key", []string{"--nats-users", write("billing\n")}, 2, "not the public nkey"},
		{"no room", []string{"--max-file-store", "0"}, 2, "--max-file-store"},
		{"a setting of the ingress", []string{"--tolerance", "0s"}, 2, "--tolerance"},
		{"an access check that is set to nothing", []string{"--allow", ""}, 2, "--allow"},
		{"a certificate without its key", []string{"--tls-cert", "/nowhere"}, 2, "--tls-key"},
		{"a flag of NATS clients", []string{"--nats-url", "nats://elsewhere:4222"}, 2, "--nats-url"},
		{"a port of the webhook that is taken", []string{"--listen", taken.Addr().String()}, 1, "set another address with --listen"},
		{"a port of the probes that is taken", []string{"--admin-listen", taken.Addr().String()}, 1, "set another address with --admin-listen"},
		{"a port of NATS that is taken", []string{"--nats-listen", taken.Addr().String()}, 1, "set another address with --nats-listen"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			c := headgate(t, tt.exit, serveArgs(data, newKeys(t), tt.args...)...)
			said := c.err.lines()
			contains(t, said[len(said)-1], "headgate: ", tt.says)
			if _, err := os.Stat(data); err == nil {
				t.Error("the data folder was made")
			}
		})
	}
}

func TestServe_ChecksSettingsOfWorkers(t *testing.T) {
	t.Setenv("HEADGATE_GRACE", "-1s")
	data := filepath.Join(t.TempDir(), "data")
	c := headgate(t, 2, serveArgs(data, newKeys(t))...)
	contains(t, c.err.String(), "worker-connections", "--grace must not be negative")
	if _, err := os.Stat(data); err == nil {
		t.Error("the data folder was made")
	}
}

func TestServe_HasSettingsOfIngress(t *testing.T) {
	t.Parallel()
	names := func(grammar any) (all []string) {
		flags, err := process.Flags(grammar)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range flags {
			all = append(all, f.Name)
		}
		return all
	}
	own := []string{"nats-url", "nats-creds", "nats-nkey", "nats-ca", "nats-cert", "nats-key", "provision", "version"}
	for _, name := range names(new(ingress.Settings)) {
		if has := slices.Contains(names(new(serveCmd)), name); has == slices.Contains(own, name) {
			t.Errorf("headgate serve has --%s: %v", name, has)
		}
	}
}

func TestServe_ChecksOnly(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	c := headgate(t, 0, serveArgs(data, newKeys(t), "--check")...)
	contains(t, c.out.String(), "source codat: path /webhooks/codat", "configuration OK")
	if _, err := os.Stat(data); err == nil {
		t.Error("the data folder was made")
	}
}

// An event is handled, and everything is there after a restart, in a copy of the folder and in a backup that is restored.
func TestServe_KeepsEverything(t *testing.T) {
	t.Parallel()
	data, keys := filepath.Join(t.TempDir(), "data"), newKeys(t)
	send := func(t *testing.T, a addresses, id string) {
		t.Helper()
		headgate(t, 0, "send", "connection.connected", "--id", id, "--to", a.webhook, "--secret-file", keys)
	}
	first := begin(t, "", serveArgs(data, keys)...)
	a := listens(t, &first.err)
	send(t, a, "msg_1")
	auditOf(t, ": 1 done, 0 waiting", "--nats-url", a.nats)
	for path, want := range map[string]string{
		"/readyz": "ok    worker-connections/claims", "/livez": "alive", "/metrics": `headgate_stream_messages{process="watch"`,
	} {
		contains(t, get(t, a.admin+path), want)
	}
	second := headgate(t, 1, serveArgs(data, keys)...)
	contains(t, second.err.String(), data+" is used by another process")
	folder := t.TempDir()
	kept, copied, restored := filepath.Join(folder, "backup"), filepath.Join(folder, "copied"), filepath.Join(folder, "restored")
	contains(t, headgate(t, 0, "backup", kept, "--nats-url", a.nats).out.String(), "CODAT: 1 messages, 3 consumers", "KV_CODAT_claims_connections: 1 messages")
	used := headgate(t, 1, "restore", kept, "--data-dir", data)
	contains(t, used.err.String(), data+" is used by another process")
	first.stop()
	first.exit(0)

	if err := os.CopyFS(copied, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	headgate(t, 0, "restore", kept, "--data-dir", restored)
	for name, folder := range map[string]string{"after a restart": data, "in a copy": copied, "in a restored backup": restored} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			again := begin(t, "", serveArgs(folder, keys)...)
			a := listens(t, &again.err)
			send(t, a, "msg_1") // stored before: it is not stored a second time
			send(t, a, "msg_2")
			auditOf(t, ": 2 done, 0 waiting", "--nats-url", a.nats)
			again.stop()
			again.exit(0)
		})
	}
}

// Stopped under load, it ends with 0, and has each event that it has answered 204.
func TestServe_DrainsAfterSIGTERM(t *testing.T) {
	t.Parallel()
	folder, data, keys := t.TempDir(), filepath.Join(t.TempDir(), "data"), newKeys(t)
	c := spawn(t, folder, serveArgs(data, keys)...)
	a := listens(t, &c.err)
	key, err := keyFlags{SecretFile: []string{keys}}.key()
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"eventType":"connection.connected","payload":{"referenceCompany":{"id":"c"},"connection":{"id":"d"}}}`)
	var mu sync.Mutex
	accepted := 0
	var senders sync.WaitGroup
	for sender := range 4 {
		senders.Go(func() {
			for n := 0; ; n++ {
				id, now := "msg_"+strconv.Itoa(sender)+"_"+strconv.Itoa(n), time.Now()
				req, err := http.NewRequest(http.MethodPost, a.webhook, bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("webhook-id", id)
				req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
				req.Header.Set("webhook-signature", key.Sign(id, now, body))
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					return // it has stopped
				}
				resp.Body.Close()
				if resp.StatusCode == http.StatusNoContent {
					mu.Lock()
					accepted++
					mu.Unlock()
				}
			}
		})
	}
	streamtest.Wait(t, func() bool { mu.Lock(); defer mu.Unlock(); return accepted >= 50 }, "it accepts under load")
	if code := c.end(syscall.SIGTERM); code != 0 {
		t.Fatalf("exit %d after SIGTERM:\n%s", code, &c.err)
	}
	senders.Wait()
	if _, end, _ := strings.Cut(c.err.String(), `"msg":"stopping"`); strings.Contains(end, `"msg":"disconnected"`) {
		t.Errorf("the server ended before its clients:\n%s", end)
	}

	again := begin(t, "", serveArgs(data, keys)...)
	a = listens(t, &again.err)
	nc, err := nats.Connect(a.nats)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	info, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	st, err := info.StreamInfo(source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	if st.State.Msgs < uint64(accepted) {
		t.Errorf("%d events are stored; want the %d that were answered 204", st.State.Msgs, accepted)
	}
	auditOf(t, strconv.FormatUint(st.State.Msgs, 10)+" done, 0 waiting", "--nats-url", a.nats)
}

func TestServe_KnowsUsers(t *testing.T) {
	t.Parallel()
	data, keys, folder := filepath.Join(t.TempDir(), "data"), newKeys(t), t.TempDir()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, _ := user.PublicKey()
	seed, _ := user.Seed()
	users, mine := filepath.Join(folder, "users"), filepath.Join(folder, "seed")
	for name, text := range map[string]string{users: "# billing\n" + public + "\n", mine: string(seed)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := begin(t, "", serveArgs(data, keys, "--nats-users", users)...)
	a := listens(t, &c.err)
	headgate(t, 0, "send", "connection.connected", "--to", a.webhook, "--secret-file", keys)
	for _, seed := range []string{mine, filepath.Join(data, "nkey")} {
		auditOf(t, ": 1 done, 0 waiting", "--nats-url", a.nats, "--nats-nkey", seed)
	}
	if nc, err := nats.Connect(a.nats); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a client without a key connects: %v", err)
		nc.Close()
	}
	readPrivateFile(t, filepath.Join(data, "nkey"))
}

func TestServe_RunsWorkersOfEachSource(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	text := "sources:\n"
	for _, name := range []string{"codat-uk", "codat-us"} {
		key := filepath.Join(folder, name)
		if err := makeKey(key); err != nil {
			t.Fatal(err)
		}
		text += "  - {name: " + name + ", secret_files: [" + key + "]}\n"
	}
	sources := filepath.Join(folder, "sources.yaml")
	if err := os.WriteFile(sources, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args := slices.DeleteFunc(serveArgs(filepath.Join(folder, "data"), "-", "--sources", sources), func(a string) bool { return a == "--secret-file" || a == "-" })
	c := begin(t, "", args...)
	a := listens(t, &c.err)
	for _, name := range []string{"codat-uk", "codat-us"} {
		to := strings.TrimSuffix(a.webhook, webhookPath) + "/webhooks/" + name
		headgate(t, 0, "send", "connection.connected", "--to", to, "--secret-file", filepath.Join(folder, name))
		auditOf(t, ": 1 done, 0 waiting", "--nats-url", a.nats, "--source", name)
	}
	contains(t, get(t, a.admin+"/readyz"), "worker-connections-codat-uk/claims", "worker-connections-codat-us/claims")
}
