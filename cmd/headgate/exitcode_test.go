package main

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats-server/v2/server"
)

// connecting returns the arguments of an example of each command that connects to NATS, with files that are there.
func connecting(t *testing.T) map[string][]string {
	t.Helper()
	backup := filepath.Join(t.TempDir(), "backup")
	newBroker(t).headgate(0, "backup", backup)
	found := map[string][]string{}
	for name, n := range nodes(grammar(t)) {
		if len(n.Children) > 0 || !slices.ContainsFunc(n.Flags, func(f *kong.Flag) bool { return f.Name == "connect-timeout" }) {
			continue
		}
		calls := exampleArgs(t, helpExamples[name][0])
		args := slices.Clone(calls[len(calls)-1])
		for i, arg := range args {
			switch arg {
			case "docs/plan.json":
				args[i] = "../../docs/plan.json"
			case "backup-1":
				args[i] = filepath.Join(t.TempDir(), "backup")
			}
		}
		switch name {
		case "restore":
			args[1] = backup
		case "send":
			args = []string{"send", "--from-event", "msg_1", "--secret", secret}
		}
		found[name] = args
	}
	if len(found) < 25 {
		t.Fatalf("only %d commands connect to NATS", len(found))
	}
	return found
}

// silentServer returns the address of a server that accepts connections and says nothing.
func silentServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var all []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			all = append(all, c)
		}
		for _, c := range all {
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return l.Addr().String()
}

func TestExitCode_Is3WhenTheServerIsDown(t *testing.T) {
	t.Parallel()
	commands := connecting(t)
	for what, address := range map[string]string{"refused": "127.0.0.1:1", "silent": silentServer(t)} {
		begun := beginAll(t, commands, "--nats-url", "nats://"+address, "--connect-timeout", "100ms")
		for name, c := range begun {
			<-c.ended
			if c.code != 3 || !strings.Contains(c.err.String(), address) {
				t.Errorf("%s: with a server that is %s the exit code is %d; want 3, and the address:\n%s", name, what, c.code, &c.err)
			}
		}
	}
}

// beginAll starts all commands with these flags.
func beginAll(t *testing.T, commands map[string][]string, flags ...string) map[string]*command {
	t.Helper()
	begun := map[string]*command{}
	for name, args := range commands {
		begun[name] = begin(t, "", slices.Concat(args, flags)...)
	}
	return begun
}

// forbiddingServer returns the address of a server whose user may publish nothing.
func forbiddingServer(t *testing.T) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{">"}}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(2 * time.Minute) {
		t.Fatal("the server is not ready")
	}
	return "nats://u:p@" + strings.TrimPrefix(s.ClientURL(), "nats://")
}

func TestExitCode_Is4WithoutPermission(t *testing.T) {
	t.Parallel()
	commands := connecting(t)
	delete(commands, "restore") // its limit for an answer is a minute
	for name, c := range beginAll(t, commands, "--nats-url", forbiddingServer(t), "--connect-timeout", "2m") {
		want := 4
		if name == "doctor" { // it reports the permissions that it does not have
			want = 1
		}
		<-c.ended
		if c.code != want || strings.Contains(c.err.String(), "p@") {
			t.Errorf("%s: the exit code is %d; want %d, and no password:\n%s", name, c.code, want, &c.err)
		}
	}
}
