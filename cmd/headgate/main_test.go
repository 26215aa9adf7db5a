package main

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// asHeadgate makes this test's binary the program itself, so that tests can run it as a process: the real main, with
// the race detector where the tests have it.
const asHeadgate = "RUN_AS_HEADGATE"

func TestMain(m *testing.M) {
	if os.Getenv(asHeadgate) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// A screen keeps what a command writes.
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

// A command is headgate with arguments, in this process.
type command struct {
	t        testing.TB
	out, err screen
	stop     context.CancelFunc
	ended    chan struct{}
	code     int // once it has ended
}

// begin starts headgate; it ends when it is done, when stop is called, or with the test.
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

// exit waits for the end, and ends the test when it is another one than wanted.
func (c *command) exit(want int) *command {
	c.t.Helper()
	<-c.ended
	if c.code != want {
		c.t.Fatalf("exit %d; want %d\n%s%s", c.code, want, &c.out, &c.err)
	}
	return c
}

// headgate runs a command to its end, which must be the wanted exit code.
func headgate(t testing.TB, want int, args ...string) *command {
	t.Helper()
	return begin(t, "", args...).exit(want)
}

// says waits until a command has written something that contains all of words.
func (s *screen) says(t testing.TB, words ...string) {
	t.Helper()
	streamtest.Wait(t, func() bool {
		text := s.String()
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
	}, strings.Join(words, " … "))
}

// contains reports every word that a command has not written.
func contains(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("it says\n%s\nwant %q in it", text, w)
		}
	}
}

func TestUsageIsExit2AndNamesTheCure(t *testing.T) {
	tests := []struct {
		name string
		args string
		says string
	}{
		{"no command", "", "expected one of"},
		{"a command that does not exist", "sned", `"send"`},
		{"send without anything to send", "send", "give one of TYPE, --all, --file and --list"},
		{"send with two things to send", "send company.created --all", "give one of TYPE"},
		{"a misspelt type", "send connection.conected", "did you mean connection.connected?"},
		{"a type in other letters", "send CONNECTION.CONNECTED", "did you mean connection.connected?"},
		{"one id for all", "send --all --id msg_1", "an id each"},
		{"no times", "send company.created --count 0", "1 or more"},
		{"no address", "send company.created --to 127.0.0.1:8080", "http://127.0.0.1:8080/webhooks/codat"},
		{"no file", "send --file /nowhere", "--file"},
		{"a bad key", "send company.created --secret whsec_short", "whsec_"},
		{"no key", "send company.created --data /nowhere", "start headgate dev"},
		{"a bad filter", "tail connection..created", "is no filter"},
		{"a bad name of a tail", "tail --durable Laptop", "small letter"},
		{"a bad source", "tail --source Codat", "--source"},
		{"no time to connect", "workers --connect-timeout 0s", "--connect-timeout"},
		{"a creds file that is not there", "workers --nats-creds /nowhere", "--nats-creds"},
		{"a bad worker", "dead list --worker Connections", "small letter"},
		{"a bad time", "dead list --since yesterday", "3d"},
		{"a replay of nothing", "dead replay", "say which dead letters"},
		{"a replay of numbers and a filter", "dead replay 1 --worker connections", "say which dead letters"},
		{"a bad redrive id", "dead replay 1 --redrive-id a:b", "--redrive-id"},
		{"no rate", "dead replay 1 --rate 0", "--rate"},
		{"a release without a type", "quarantine release 1", "--type"},
		{"a release to a misspelt type", "quarantine release 1 --type company.creatd", "did you mean company.created?"},
		{"a release to a type that is no subject", "quarantine release 1 --type company..created", "--type"},
		{"a size that is none", "provision --max-bytes lots", "1MiB"},
		{"too many replicas", "provision --replicas 7", "replicas 7"},
		{"a listener that is none", "dev --listen here", "--listen"},
		{"a setting that is misspelt", "dev --no-example", "--no-examples"},
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

func TestWithoutNATSACommandGivesUpSoonAndSaysWhereItLooked(t *testing.T) {
	for _, args := range []string{
		"tail", "dead list", "dead show 1", "dead replay --all", "quarantine list", "quarantine show 1",
		"quarantine release 1 --type company.created", "provision", "workers",
	} {
		t.Run(args, func(t *testing.T) {
			c := headgate(t, 1, append(strings.Fields(args), "--nats-url", "nats://user:password@127.0.0.1:1", "--connect-timeout", "100ms")...)
			contains(t, c.err.String(), "cannot reach NATS at nats://127.0.0.1:1: is it running? set --nats-url or NATS_URL")
			if strings.Contains(c.err.String(), "password") {
				t.Errorf("it shows the password: %s", &c.err)
			}
		})
	}
}

func TestWithoutProvisioningACommandNamesTheCure(t *testing.T) {
	s := streamtest.New(t)
	for _, args := range []string{"tail", "dead list", "dead show 1", "dead replay --all", "quarantine list", "workers"} {
		t.Run(args, func(t *testing.T) {
			c := headgate(t, 1, append(strings.Fields(args), "--nats-url", s.URL, "--source", "other")...)
			contains(t, c.err.String(), "run headgate provision")
		})
	}
}

func TestAddressesAreShownWithoutWhoLogsIn(t *testing.T) {
	tests := []struct{ name, address, want string }{
		{"a plain address", "nats://127.0.0.1:4222", "nats://127.0.0.1:4222"},
		{"a user and a password", "nats://me:secret@host:4222", "nats://host:4222"},
		{"a token", "nats://token@host:4222", "nats://host:4222"},
		{"several", "nats://a:b@one:1, nats://c:d@two:2", "nats://one:1,nats://two:2"},
		{"without a scheme", "me:secret@host:4222", "host:4222"},
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

// What is not for this time only has a variable, and process knows it.
func TestProgramsKnowEachOthersVariables(t *testing.T) {
	programs := programs(t)
	have := map[string]bool{}
	for name, grammar := range programs {
		flags, err := process.Flags(grammar)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, f := range flags {
			for _, variable := range f.Envs {
				if strings.HasPrefix(variable, "HEADGATE_") {
					have[variable] = true
				}
			}
		}
	}
	for _, variable := range process.Known {
		if !have[variable] {
			t.Errorf("process.Known has %s, which no program reads", variable)
		}
		delete(have, variable)
	}
	for variable := range have {
		t.Errorf("process.Known has no %s", variable)
	}
}
