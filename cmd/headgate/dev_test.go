package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// anyPorts lets headgate dev choose ports that are free.
var anyPorts = []string{"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0"}

// A child is headgate as a process of its own.
type child struct {
	*exec.Cmd
	t        testing.TB
	out, err screen
	ended    chan error
}

// spawn starts headgate in a folder. It is killed with the test when it has not ended by then.
func spawn(t testing.TB, folder string, args ...string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(os.Args[0], args...), t: t, ended: make(chan error, 1)}
	c.Dir, c.Stdout, c.Stderr = folder, &c.out, &c.err
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "HEADGATE_") && !strings.HasPrefix(variable, "NATS_") {
			c.Env = append(c.Env, variable)
		}
	}
	c.Env = append(c.Env, asHeadgate+"=1")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.ended <- c.Wait() }()
	t.Cleanup(func() {
		if c.ended != nil {
			c.Process.Kill()
			<-c.ended
		}
	})
	return c
}

// end sends a signal, waits for the end, and returns the exit code.
func (c *child) end(s os.Signal) int {
	c.t.Helper()
	if s != nil {
		if err := c.Process.Signal(s); err != nil {
			c.t.Fatal(err)
		}
	}
	select {
	case <-c.ended:
		c.ended = nil
		return c.ProcessState.ExitCode()
	case <-time.After(2 * time.Minute):
		c.t.Fatalf("it does not end; it said\n%s%s", &c.out, &c.err)
		return -1
	}
}

var typed = regexp.MustCompile(`(?m)^  .*headgate\S* (send|tail)(.*)$`)

// next are the arguments of the commands that a greeting tells people to type next.
func next(t testing.TB, greeting, name string) []string {
	t.Helper()
	for _, m := range typed.FindAllStringSubmatch(greeting, -1) {
		if m[1] == name {
			return append([]string{name}, strings.Fields(m[2])...)
		}
	}
	t.Fatalf("no headgate %s to type next in\n%s", name, greeting)
	return nil
}

// at is what a greeting says of one thing.
func at(t testing.TB, greeting, name string) string {
	t.Helper()
	for line := range strings.Lines(greeting) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name {
			return strings.Join(fields[1:], " ")
		}
	}
	t.Fatalf("no %s in\n%s", name, greeting)
	return ""
}

// The whole of a developer's first minutes, and the next morning.
func TestDev_StartsTwiceInOneFolder(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	first := spawn(t, folder, append([]string{"dev"}, anyPorts...)...)
	for _, name := range startExamples {
		streamtest.Wait(t, func() bool {
			return slices.ContainsFunc(first.out.lines(), line("accepted", name, "204 in ")) &&
				slices.ContainsFunc(first.out.lines(), line("handled", name, "by connections, attempt 1"))
		}, name+" is accepted and handled")
	}

	// What it tells people to type next works, and shows.
	args := next(t, first.out.String(), "send")
	sending := spawn(t, folder, args...)
	if code := sending.end(nil); code != 0 {
		t.Fatalf("headgate %q = exit %d: %s", args, code, &sending.err)
	}
	streamtest.Wait(t, func() bool {
		return slices.ContainsFunc(first.out.lines(), line("handled", "connection.disconnected"))
	}, "what was sent is handled")
	tailing := spawn(t, folder, next(t, first.out.String(), "tail")...)
	tailing.err.says(t, "following")
	spawn(t, folder, args...).end(nil)
	tailing.out.says(t, "connection.disconnected")
	if code := tailing.end(os.Interrupt); code != 0 {
		t.Errorf("tail = exit %d; want 0", code)
	}

	health := at(t, first.out.String(), "health")
	for path, words := range map[string]string{health: "ready", strings.Replace(health, "readyz", "metrics", 1): `headgate_build_info`} {
		if got := get(t, path); !strings.Contains(got, words) {
			t.Errorf("%s answers %s", path, got)
		}
	}

	if code := first.end(os.Interrupt); code != 0 {
		t.Fatalf("after Ctrl-C: exit %d\n%s%s", code, &first.out, &first.err)
	}
	contains(t, first.out.String(), "none yet", "stopped; stored events stay in .headgate")
	if strings.Contains(first.err.String(), "ERROR") {
		t.Errorf("it complains: %s", &first.err)
	}
	key := readPrivateFile(t, filepath.Join(folder, ".headgate", "secret"))
	if strings.Contains(first.out.String(), strings.TrimSpace(key)) {
		t.Error("it shows the key")
	}

	second := spawn(t, folder, append([]string{"dev"}, anyPorts...)...)
	second.out.says(t, "Next")
	if got, want := at(t, second.out.String(), "events"), fmt.Sprintf("%d from before", len(startExamples)+2); got != want {
		t.Errorf("the second start says of the events %q; want %q", got, want)
	}
	if again := readPrivateFile(t, filepath.Join(folder, ".headgate", "secret")); again != key {
		t.Error("the second start has another key")
	}
	args = append(next(t, second.out.String(), "send"), "--id", "msg_second")
	if code := spawn(t, folder, args...).end(nil); code != 0 {
		t.Errorf("headgate %q = exit %d", args, code)
	}
	streamtest.Wait(t, func() bool {
		return slices.ContainsFunc(second.out.lines(), line("handled", "connection.disconnected", "msg_second"))
	}, "the second start handles what is sent")
	if slices.ContainsFunc(second.out.lines(), line("accepted", startExamples[0])) {
		t.Errorf("it sent the examples again:\n%s", &second.out)
	}
	if code := second.end(syscall.SIGTERM); code != 0 {
		t.Errorf("after SIGTERM: exit %d\n%s", code, &second.err)
	}
}

// line reports whether a line begins with the first word and has the others.
func line(words ...string) func(string) bool {
	return func(l string) bool {
		return strings.HasPrefix(l, words[0]) && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(l, w) })
	}
}

func get(t testing.TB, url string) (text string) {
	t.Helper()
	streamtest.Wait(t, func() bool {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		defer http.DefaultClient.CloseIdleConnections()
		read, err := io.ReadAll(resp.Body)
		text = string(read)
		return err == nil && resp.StatusCode == http.StatusOK
	}, url+" to answer 200")
	return text
}

// readPrivateFile reads a file that must have mode 0600.
func readPrivateFile(t testing.TB, name string) string {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("%s has mode %v; want 0600", name, info.Mode())
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// startDev runs headgate dev in this process, until the test stops it.
func startDev(t testing.TB, data string, args ...string) *command {
	t.Helper()
	return begin(t, "", slices.Concat([]string{"dev", "--data", data}, anyPorts, args)...)
}

func TestDev_NamesPortInUse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for _, flag := range []string{"--listen", "--admin-listen", "--nats-listen"} {
		t.Run(flag, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			c := startDev(t, data, flag, taken.Addr().String()).exit(1)
			contains(t, c.err.String(), "port "+port+" is in use", flag)
			if len(c.err.lines()) != 1 {
				t.Errorf("it says %q; want one line", c.err.lines())
			}
			if _, err := os.Stat(data); err == nil {
				t.Error("it began all the same: the data folder is there")
			}
		})
	}
}

// A port that is chosen before its listener is there can be taken meanwhile: only those are that others must know.
func TestClaimPorts_LeavesPortsToTheirListeners(t *testing.T) {
	t.Parallel()
	chosen, left := "127.0.0.1:0", "127.0.0.1:0"
	if err := claimPorts(port{"--listen", &chosen, true}, port{"--nats-listen", &left, false}); err != nil {
		t.Fatal(err)
	}
	if chosen == "127.0.0.1:0" || left != "127.0.0.1:0" {
		t.Errorf("the addresses are %s and %s; want a port in the first, and none in the second", chosen, left)
	}
}

func TestDev_EndsWhenItsFolderIsDeleted(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	c := startDev(t, data, "--no-examples")
	c.out.says(t, "Next")
	streamtest.Wait(t, func() bool { return os.RemoveAll(data) == nil }, "the folder is deleted")
	c.exit(1)
	contains(t, c.err.String(), "the data folder "+data+" was deleted")
}

func TestDev_RefusesFolderInUse(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	first := startDev(t, data, "--no-examples")
	first.out.says(t, "Next")
	key := readPrivateFile(t, keyFile(data))
	second := spawn(t, t.TempDir(), slices.Concat([]string{"dev", "--data", data}, anyPorts)...)
	if code := second.end(nil); code != 1 {
		t.Errorf("exit %d; want 1", code)
	}
	contains(t, second.err.String(), data+" is used by another process")
	if readPrivateFile(t, keyFile(data)) != key {
		t.Error("it made another key")
	}
	first.stop()
	first.exit(0)
}

func TestDev_RestoresModeOfKey(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	if err := os.WriteFile(keyFile(data), []byte(secret+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := startDev(t, data, "--no-examples")
	c.out.says(t, "Next")
	contains(t, c.err.String(), "readable by other users")
	if readPrivateFile(t, keyFile(data)) != secret+"\n" {
		t.Error("it made another key")
	}
	headgate(t, 0, append(next(t, c.out.String(), "send"), "--secret", secret)...)
	c.stop()
	c.exit(0)
}

func TestDev_RefusesUnusableKey(t *testing.T) {
	t.Parallel()
	t.Run("a link to somewhere else", func(t *testing.T) {
		data := t.TempDir()
		if err := os.Symlink("/dev/null", keyFile(data)); err != nil {
			t.Fatal(err)
		}
		contains(t, startDev(t, data).exit(1).err.String(), keyFile(data), "not a regular file")
	})
	t.Run("a file with something else in it", func(t *testing.T) {
		data := t.TempDir()
		if err := os.WriteFile(keyFile(data), []byte("mycat\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c := startDev(t, data).exit(2)
		contains(t, c.err.String(), keyFile(data), "whsec_")
		if strings.Contains(c.err.String(), "mycat") {
			t.Errorf("it shows what is in it: %s", &c.err)
		}
	})
}

func TestDev_MakesNoKeyBesideGivenOne(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	c := startDev(t, data, "--secret", secret)
	c.out.says(t, "handled", "by connections")
	if _, err := os.Stat(keyFile(data)); err == nil {
		t.Error("it made a key all the same")
	}
	if strings.Contains(c.out.String(), secret) {
		t.Error("it shows the key")
	}
	headgate(t, 0, append(next(t, c.out.String(), "send"), "--secret", secret)...)
	other := t.TempDir()
	if err := makeKey(keyFile(other)); err != nil {
		t.Fatal(err)
	}
	headgate(t, 1, append(next(t, c.out.String(), "send"), "--data", other)...)
	c.out.says(t, "refused", "401", "no_match")
	if strings.Contains(c.err.String(), "no_match") {
		t.Errorf("the refusal is told twice: %s", &c.err)
	}
	c.stop()
	c.exit(0)
}

func TestDev_ReadsSettingsOfItsParts(t *testing.T) {
	t.Setenv("HEADGATE_MAX_BODY", "lots")
	c := startDev(t, t.TempDir()).exit(2)
	contains(t, c.err.String(), "ingress: --max-body")
}

func TestDev_StopsBeforeItIsReady(t *testing.T) {
	t.Parallel()
	c := startDev(t, t.TempDir())
	c.stop()
	c.exit(0)
}

// Every event type goes its whole way: signed and posted by send, proven and stored by the ingress.
func TestSend_EveryExampleIsStoredOnSubjectOfItsType(t *testing.T) {
	t.Parallel()
	c := startDev(t, t.TempDir(), "--no-examples")
	c.out.says(t, "Next")
	args := next(t, c.out.String(), "send")
	args = slices.DeleteFunc(args, func(a string) bool { return a == "connection.disconnected" })
	all := decode[sendResult](t, headgate(t, 0, append(args, "--all", "--json")...).out.lines())

	nc, err := nats.Connect(at(t, c.out.String(), "NATS"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range examples.All() {
		t.Run(e.Name, func(t *testing.T) {
			m, err := st.GetMsg(t.Context(), uint64(i+1))
			if err != nil {
				t.Fatal(err)
			}
			subject := "codat.events." + e.Type
			want := map[string]string{
				jetstream.MsgIDHeader:    all[i].ID,
				stream.HeaderWebhookID:   all[i].ID,
				"ce-id":                  all[i].ID,
				"ce-source":              "/headgate/codat",
				"ce-specversion":         "1.0",
				"ce-type":                e.Type,
				stream.HeaderContentType: "application/json",
			}
			head, err := codat.Read(e.Body)
			if err != nil {
				subject = "codat.quarantine"
				want[stream.HeaderQuarantineReason] = "no_type"
			}
			want["ce-subject"], want["ce-connectionid"], want["ce-pushoperationkey"] = head.Company, head.Connection, head.PushOperation
			if !head.Generated.IsZero() {
				want["ce-time"] = head.Generated.UTC().Format(time.RFC3339Nano)
			}
			if m.Subject != subject {
				t.Errorf("stored on %s; want %s", m.Subject, subject)
			}
			if string(m.Data) != string(e.Body) {
				t.Errorf("stored %d bytes that are not the %d that were sent", len(m.Data), len(e.Body))
			}
			wantHeaders(t, m.Header, want)
			for _, name := range []string{stream.HeaderWebhookTimestamp, stream.HeaderWebhookSignature, "ce-receivedtime"} {
				if m.Header.Get(name) == "" {
					t.Errorf("no header %s", name)
				}
			}
		})
	}
}
