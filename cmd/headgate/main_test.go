package main

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/pkg/stream/embedded"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// asHeadgate is the variable with which this test's binary runs as headgate, so that tests can start processes.
const asHeadgate = "RUN_AS_HEADGATE"

func TestMain(m *testing.M) {
	if os.Getenv(asHeadgate) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// A screen keeps the output of a command.
type screen struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

func (s *screen) lines() []string {
	return strings.FieldsFunc(s.String(), func(r rune) bool { return r == '\n' })
}

// A command is a run of headgate in this process.
type command struct {
	t        testing.TB
	out, err screen
	stop     context.CancelFunc
	ended    chan struct{}
	code     int // once it has ended
}

// begin starts headgate. It ends by itself, by stop, or with the test.
func begin(t testing.TB, stdin string, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &command{t: t, stop: cancel, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		c.code = run(ctx, args, &terminal{in: strings.NewReader(stdin), out: &c.out, err: &c.err})
	}()
	t.Cleanup(func() {
		cancel()
		<-c.ended
	})
	return c
}

// exit waits for the end and checks the exit code.
func (c *command) exit(want int) *command {
	c.t.Helper()
	<-c.ended
	if c.code != want {
		c.t.Fatalf("exit %d; want %d\n%s%s", c.code, want, &c.out, &c.err)
	}
	return c
}

// headgate runs a command and checks its exit code.
func headgate(t testing.TB, want int, args ...string) *command {
	t.Helper()
	return begin(t, "", args...).exit(want)
}

// says waits until the output contains all words.
func (s *screen) says(t testing.TB, words ...string) {
	t.Helper()
	streamtest.Wait(t, func() bool {
		text := s.String()
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
	}, strings.Join(words, " … "))
}

// contains reports every word that a text does not contain.
func contains(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("it says\n%s\nwant %q in it", text, w)
		}
	}
}

func TestRun_ExitsWith2OnWrongUsage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		args string
		says string
	}{
		{"no command", "", "expected one of"},
		{"a command that does not exist", "sned", `"send"`},
		{"send without anything to send", "send", "give one of TYPE, --all, --all-types, --file, --from-event and --list"},
		{"send with two things to send", "send company.created --all", "give one of TYPE"},
		{"a misspelt type", "send connection.conected", "--list lists the types"},
		{"a type in other letters", "send CONNECTION.CONNECTED", "--list lists the types"},
		{"one id for all", "send --all --id msg_1", "--id cannot be used with --all"},
		{"no times", "send company.created --count 0", "--count must be at least 1"},
		{"no address", "send company.created --to 127.0.0.1:8080", "http://127.0.0.1:8080/webhooks/codat"},
		{"no file", "send --file /nowhere", "--file"},
		{"a bad key", "send company.created --secret whsec_short", "whsec_"},
		{"no key", "send company.created --data /nowhere", "start headgate dev"},
		{"a bad filter", "tail connection..created", "invalid event type"},
		{"a bad source", "tail --source Codat", "--source"},
		{"no time to connect", "workers --connect-timeout 0s", "--connect-timeout"},
		{"a creds file that is not there", "workers --nats-creds /nowhere", "--nats-creds"},
		{"a bad worker", "dead list --worker Connections", "small letter"},
		{"a bad time", "dead list --since yesterday", "3d"},
		{"a replay of nothing", "dead replay", "choose the dead letters"},
		{"a replay of numbers and a filter", "dead replay 1 --worker connections", "choose the dead letters"},
		{"a bad redrive id", "dead replay 1 --redrive-id a:b", "--redrive-id"},
		{"no rate", "dead replay 1 --rate 0", "--rate"},
		{"a release without a type", "quarantine release 1", "--type"},
		{"a release to a misspelt type", "quarantine release 1 --type company.creatd", "add --unknown-type"},
		{"a release to a type that is no subject", "quarantine release 1 --type company..created", "--type"},
		{"a size that is not one", "provision --max-bytes lots", "1MiB"},
		{"too many replicas", "provision --replicas 7", "replicas must be 1 to 5"},
		{"a listener that is not an address", "dev --listen here", "--listen"},
		{"a setting that is misspelt", "dev --no-example", `--no-examples"? (headgate dev --help lists every setting)`},
		{"an argument that is missing", "connections show c-1", "(headgate connections show --help lists every setting)"},
		{"all arguments that are missing", "reads show", `expected "<company> <connection> <data-type>" (headgate reads show --help`},
		{"several bad arguments", "reads show c.1 k.1 items", "- and _; the connection id"},
		{"a flag that the default command does not have", "reads --kind 1h", "(headgate reads list --help lists every setting)"},
		{"a command without one of its own", "endpoints", "(headgate endpoints --help lists the commands)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := headgate(t, 2, strings.Fields(tt.args)...)
			if said := c.err.lines(); len(said) != 1 || !strings.HasPrefix(said[0], "headgate: ") {
				t.Errorf("it says %q; want one line", said)
			}
			contains(t, c.err.String(), tt.says)
			if c.out.String() != "" {
				t.Errorf("it prints %q; want nothing", &c.out)
			}
		})
	}
}

func TestConnect_NamesUnreachableServer(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"tail", "find msg_1", "dead list", "dead show 1", "dead replay --all", "quarantine list", "quarantine show 1",
		"quarantine release 1 --type company.created", "provision", "workers",
	} {
		t.Run(args, func(t *testing.T) {
			c := headgate(t, 3, append(strings.Fields(args), "--nats-url", "nats://user:password@127.0.0.1:1", "--connect-timeout", "100ms")...)
			contains(t, c.err.String(), "cannot reach NATS at nats://127.0.0.1:1: is it running? set --nats-url or NATS_URL")
			if strings.Contains(c.err.String(), "password") {
				t.Errorf("it shows the password: %s", &c.err)
			}
		})
	}
}

// A connection that waits for its next try no longer knows why the last one failed.
func TestConnect_NamesRefusal(t *testing.T) {
	t.Parallel()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	server, err := embedded.Start(embedded.Options{Dir: t.TempDir(), LazySync: true, Users: []string{public}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	streamtest.Wait(t, func() bool { // a server that is slow to answer is one that cannot be reached
		c := begin(t, "", "workers", "--nats-url", server.ClientURL(), "--connect-timeout", "100ms")
		<-c.ended
		if c.code != 3 && c.code != 4 {
			t.Errorf("exit %d; want 4, or 3 of a server that is slow to answer", c.code)
		}
		return strings.Contains(c.err.String(), "refused this user: check --nats-creds (NATS_CREDS) or --nats-nkey (NATS_NKEY)")
	}, "the command names the refusal")
}

func TestRun_NamesCureWithoutProvisioning(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	for _, args := range []string{"tail", "find msg_1", "dead list", "dead show 1", "dead replay --all", "quarantine list", "workers"} {
		t.Run(args, func(t *testing.T) {
			c := headgate(t, 1, append(strings.Fields(args), "--nats-url", s.URL, "--source", "other")...)
			contains(t, c.err.String(), "run headgate provision")
		})
	}
}

func TestWithoutUser_HidesCredentials(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, address, want string }{
		{"a plain address", "nats://127.0.0.1:4222", "nats://127.0.0.1:4222"},
		{"a user and a password", "nats://me:secret@host:4222", "nats://host:4222"},
		{"a token", "nats://token@host:4222", "nats://host:4222"},
		{"several", "nats://a:b@one:1, nats://c:d@two:2", "nats://one:1,nats://two:2"},
		{"without a scheme", "me:secret@host:4222", "host:4222"},
		{"passwords that are not encoded", "nats://me:a/b@host:1,nats://me:1#a@b@host:2,me:1?c@host:3", "host:1,host:2,host:3"},
		{"a password that no address can have", "nats://me:%zz@host:4222", "host:4222"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := withoutUser(tt.address); got != tt.want {
				t.Errorf("withoutUser(%q) = %q; want %q", tt.address, got, tt.want)
			}
		})
	}
}

func TestRun_WarnsOfUnknownVariables(t *testing.T) {
	t.Setenv("HEADGATE_LATER", "1")
	t.Setenv("HEADGATE_MAX_BODY", "1MiB") // of the ingress, which headgate dev runs
	c := headgate(t, 0, "send", "--list")
	if got, want := c.err.String(), "headgate: unknown environment variable HEADGATE_LATER: headgate --help lists the known ones\n"; got != want {
		t.Errorf("headgate wrote %q; want %q", got, want)
	}
}
