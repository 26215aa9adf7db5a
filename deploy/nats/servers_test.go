package nats_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers/builtin"
)

// patience is how long a condition may take: machines on which tests run are slow at times.
const patience = 2 * time.Minute

// program is the command headgate, built once.
var program = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "headgate-")
	if err != nil {
		return "", err
	}
	name := filepath.Join(folder, "headgate")
	if out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", name, "../../cmd/headgate").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return name, nil
})

// An installation is a folder as a server has it at /etc/nats: the real configuration in config, and in keys what
// headgate keys made. The seeds are in secrets.
type installation struct{ config, secrets string }

func install(t *testing.T, keysArgs ...string) installation {
	t.Helper()
	root := t.TempDir()
	in := installation{config: filepath.Join(root, "config"), secrets: filepath.Join(root, "secrets")}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	headgate(t, nil, append([]string{"keys", in.secrets, "--spec", ownSpec}, keysArgs...)...)
	for link, to := range map[string]string{in.config: here, filepath.Join(root, "keys"): filepath.Join(in.secrets, "nats")} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	return in
}

// withTeam does what accounts.conf says about a team: it gives the team a key and takes its file in.
func (in installation) withTeam(t *testing.T) installation {
	t.Helper()
	here, err := filepath.EvalSymlinks(in.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(in.config); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(in.config, os.DirFS(here)); err != nil {
		t.Fatal(err)
	}
	accounts := filepath.Join(in.config, "accounts.conf")
	text, err := os.ReadFile(accounts)
	if err != nil {
		t.Fatal(err)
	}
	for _, aside := range []string{"include team-billing.conf", "billing: {"} {
		if !bytes.Contains(text, []byte("# "+aside)) {
			t.Fatalf("accounts.conf has no line %q", "# "+aside)
		}
		text = bytes.Replace(text, []byte("# "+aside), []byte(aside), 1)
	}
	if err := os.WriteFile(accounts, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return in
}

// seed is the file with the seed of a role.
func (in installation) seed(role string) string { return filepath.Join(in.secrets, role, "nkey") }

// publicKey is what a role logs in with, as the servers know it.
func (in installation) publicKey(t *testing.T, role string) string {
	t.Helper()
	seed, err := os.ReadFile(in.seed(role))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := nkeys.FromSeed(bytes.TrimSpace(seed))
	if err != nil {
		t.Fatal(err)
	}
	key, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// parse reads one of the real configuration files as nats-server does.
func (in installation) parse(file string) (*server.Options, error) {
	return server.ProcessConfigFile(filepath.Join(in.config, file))
}

// options returns those of a real configuration file, but for what two servers on one machine could not share.
func (in installation) options(t *testing.T, file, name string) *server.Options {
	t.Helper()
	o, err := in.parse(file)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	o.ServerName, o.Host, o.Port, o.HTTPPort = name, "127.0.0.1", server.RANDOM_PORT, 0
	o.StoreDir = t.TempDir()
	o.NoSigs = true
	return o
}

// servers starts one server, or three with cluster.conf, of an installation with the team billing.
func servers(t *testing.T, count int, more ...func(*server.Options)) (installation, []*node) {
	t.Helper()
	more = append(more, func(o *server.Options) { o.SyncAlways = false }) // no power fails here
	if count > 1 {
		in, nodes, _ := cluster(t, "cluster.conf", []string{"--team", "billing"}, more...)
		return in, nodes
	}
	in := install(t, "--team", "billing").withTeam(t)
	o := in.options(t, "server.conf", "nats")
	for _, change := range more {
		change(o)
	}
	return in, []*node{start(t, o)}
}

// ownSpec is the spec of a worker that is not built in: expenses.
const ownSpec = "testdata/expenses.json"

// workerNames are the names of the built-in workers.
func workerNames() []string {
	var names []string
	for _, w := range builtin.Workers() {
		names = append(names, w.Spec.Name)
	}
	return names
}

// insider is a user in the account of the streams with permission to publish insiderMay and nothing more. It gets from a
// stream that no target deletes: a stream that is gone answers nothing.
const insider, insiderMay = "insider", "$JS.API.DIRECT.GET.KV_CODAT_connections"

// administrator adds to the account of the streams a user without limits, and the insider.
func administrator(o *server.Options) {
	for _, a := range o.Accounts {
		if a.GetName() == "HEADGATE" {
			o.Users = append(o.Users,
				&server.User{Username: "administrator", Password: "p", Account: a},
				&server.User{Username: insider, Password: "p", Account: a, Permissions: &server.Permissions{
					Publish:   &server.SubjectPermission{Allow: []string{insiderMay}},
					Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_" + insider + ".>"}},
				}})
		}
	}
}

// A node is a running server, with what it says.
type node struct {
	*server.Server
	opts *server.Options
	said *said
}

func start(t *testing.T, o *server.Options) *node {
	t.Helper()
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatalf("NewServer() = %v", err)
	}
	n := &node{srv, o, new(said)}
	srv.SetLoggerV2(n.said, false, false, false)
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	wait(t, func() bool { return srv.Addr() != nil }, "the server listens")
	return n
}

func (n *node) url() string { return "nats://" + n.Addr().String() }

// said keeps what a server says about permissions and logins.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) Noticef(string, ...any) {}
func (s *said) Debugf(string, ...any)  {}
func (s *said) Tracef(string, ...any)  {}

func (s *said) Warnf(format string, v ...any)  { s.Errorf(format, v...) }
func (s *said) Fatalf(format string, v ...any) { s.Errorf(format, v...) }

func (s *said) Errorf(format string, v ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(format, v...))
}

// about are the lines that have this in them.
func (s *said) about(what string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []string
	for _, l := range s.lines {
		if strings.Contains(l, what) {
			found = append(found, l)
		}
	}
	return found
}

// reload gives the server its configuration again, as a signal does.
func (n *node) reload(t *testing.T) {
	t.Helper()
	o, err := server.ProcessConfigFile(n.opts.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	is := n.opts
	o.ServerName, o.Host, o.Port, o.HTTPPort, o.StoreDir, o.NoSigs, o.SyncAlways = is.ServerName, is.Host, is.Port, is.HTTPPort, is.StoreDir, is.NoSigs, is.SyncAlways
	o.Cluster.Host, o.Cluster.Port = is.Cluster.Host, is.Cluster.Port
	if err := n.ReloadOptions(o); err != nil {
		t.Fatalf("ReloadOptions() = %v", err)
	}
}

// output is what a process prints.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// begin starts the command, which runs until it is interrupted or the test ends.
func begin(t *testing.T, env []string, args ...string) (*exec.Cmd, *output) {
	t.Helper()
	name, err := program()
	if err != nil {
		t.Fatal(err)
	}
	said := new(output)
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, said
}

// headgate runs the command and returns what it prints. It has to exit 0.
func headgate(t *testing.T, env []string, args ...string) string {
	t.Helper()
	out, err := tryHeadgate(t, env, args...)
	if err != nil {
		t.Fatalf("headgate %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func tryHeadgate(t *testing.T, env []string, args ...string) (string, error) {
	t.Helper()
	name, err := program()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// as is the environment in which a process logs in as a role.
func (in installation) as(n *node, role string) []string {
	return []string{"NATS_URL=" + n.url(), "NATS_NKEY=" + in.seed(role), "HEADGATE_CONNECT_TIMEOUT=30s"}
}

// connect logs in as a role, by the name of its process. What the server refuses comes out of the channel.
func (in installation) connect(t *testing.T, n *node, role, process string) (*nats.Conn, <-chan error) {
	t.Helper()
	nc, err := stream.Connect(t.Context(), stream.NATS{NATSURL: n.url(), NATSNKey: in.seed(role)}, process, nil)
	if err != nil {
		t.Fatalf("connect as %s: %v", role, err)
	}
	t.Cleanup(nc.Close)
	if err := stream.Connected(within(t), nc); err != nil {
		t.Fatalf("connect as %s: %v", role, err)
	}
	refused := make(chan error, 64)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err })
	return nc, refused
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// wait returns when cond holds, and ends the test when it does not in time.
func wait(t *testing.T, cond func() bool, what string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// ports are those that freePort has returned.
var ports sync.Map

// freePort returns a port that no process listens on, and no second time. It is below the range from which the system
// takes the ports of connections, of which the other tests make many.
func freePort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := 10000 + rand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l.Close()
		if _, taken := ports.LoadOrStore(port, true); !taken {
			return port
		}
	}
	t.Fatal("no free port between 10000 and 30000")
	return 0
}
