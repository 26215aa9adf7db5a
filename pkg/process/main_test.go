package process_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/process"
)

// asProgram is set when a test runs this binary as a program, to see its exit code and its handling of signals.
const asProgram = "RUN_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		process.Main("program", "A program for tests.", new(settings), run)
	}
	goleak.VerifyTestMain(m)
}

type settings struct {
	process.Settings

	Do     string        `default:"serve" enum:"serve,end,fail,cancel,misconfigure,panic,stay,check,check-fails" help:"What to do."`
	Pause  time.Duration `default:"10s" placeholder:"TIME" help:"Time to wait."`
	Secret string        `help:"A key that must not be shown."`
	URL    string        `name:"nats-url" env:"NATS_URL" default:"nats://127.0.0.1:4222" help:"Where NATS is."`
}

func (s *settings) Validate() error {
	if s.Pause <= 0 {
		return fmt.Errorf("--pause must be greater than 0s (got %v)", s.Pause)
	}
	return nil
}

func (s *settings) Check(w io.Writer) (bool, error) {
	switch s.Do {
	case "check":
		fmt.Fprintln(w, "configuration OK")
		return true, nil
	case "check-fails":
		return true, process.Misconfigured(errors.New("the key whsec_c2VjcmV0 is old: give another"))
	}
	return false, nil
}

func TestMain_CheckOpensNothing(t *testing.T) {
	t.Parallel()
	for do, want := range map[string]struct {
		code     int
		out, err string
	}{
		"check":       {0, "configuration OK\n", ""},
		"check-fails": {2, "", "program: the key whsec_… is old: give another\n"},
	} {
		t.Run(do, func(t *testing.T) {
			program := exec.Command(os.Args[0], "--do="+do)
			program.Env = append(os.Environ(), asProgram+"=1")
			var out, problems bytes.Buffer
			program.Stdout, program.Stderr = &out, &problems
			_ = program.Run()
			if code := program.ProcessState.ExitCode(); code != want.code || out.String() != want.out || problems.String() != want.err {
				t.Errorf("exit code %d, wrote %q and %q; want %d, %q, %q", code, out.String(), problems.String(), want.code, want.out, want.err)
			}
		})
	}
}

func run(ctx context.Context, s *settings, p *process.Process) error {
	p.Health.Add("door", func(context.Context) error { return nil })
	p.Log.Info("running")
	switch s.Do {
	case "end":
		return nil
	case "fail":
		return errors.New("connecting to nats://user:/hunter2#@127.0.0.1:1: refused")
	case "misconfigure":
		return fmt.Errorf("reading keys: %w", process.Misconfigured(errors.New("keys.txt is empty: put a key into it")))
	case "panic":
		panic("whsec_c2VjcmV0")
	case "stay":
		<-ctx.Done()
		p.Log.Info("staying")
		select {}
	case "cancel":
		<-ctx.Done()
		return fmt.Errorf("waiting: %w", ctx.Err())
	}
	<-ctx.Done()
	return nil
}

// program returns the command that runs the test binary as a program.
func program(t *testing.T, environment []string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = slices.Concat([]string{asProgram + "=1", "GORACE=atexit_sleep_ms=0", "PATH=" + os.Getenv("PATH")}, environment)
	return cmd
}

func TestMain_ExitCodeAndMessage(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, takenPort, _ := net.SplitHostPort(taken.Addr().String())

	tests := []struct {
		name        string
		environment []string
		args        []string
		code        int
		says        string
	}{
		{"run returns", nil, []string{"--do=end"}, 0, `"stopped"`},
		{"error with a password", nil, []string{"--do=fail"}, 1, "nats://…@127.0.0.1:1: refused"},
		{"panic, with its stack", nil, []string{"--do=panic"}, 1, "main_test.go"},
		{"wrong settings found by run", nil, []string{"--do=misconfigure"}, 2, "keys.txt is empty: put a key into it"},
		{"misspelt flag", nil, []string{"--dp=end"}, 2, `did you mean "--do"?`},
		{"unknown flag", nil, []string{"--zzzzzz"}, 2, "program --help lists every setting"},
		{"value that is not a duration", nil, []string{"--pause=soon"}, 2, "--pause"},
		{"value that Validate refuses", nil, []string{"--pause=0s"}, 2, "--pause must be greater than 0s"},
		{"value of the environment that Validate refuses", []string{"HEADGATE_PAUSE=-1s"}, nil, 2, "--pause must be greater than 0s"},
		{"value that is not allowed", nil, []string{"--log-level=loud"}, 2, "--log-level"},
		{"admin listener that is not an address", nil, []string{"--admin-listen=9090"}, 2, "--admin-listen must be host:port"},
		{"admin port in use", nil, []string{"--do=end", "--admin-listen=" + taken.Addr().String()}, 1, "port " + takenPort + " is in use"},
		{"variable of a later version", []string{"HEADGATE_LATER=1"}, []string{"--do=end"}, 0, `"unknown environment variable HEADGATE_LATER: program --help lists the known ones"`},
		{"wrong settings with an unknown variable", []string{"HEADGATE_PAUZE=1s"}, []string{"--pause=0s"}, 2, "greater than 0s (got 0s); unknown environment variable HEADGATE_PAUZE (program --help"},
		{"variable of its own that does not parse", []string{"HEADGATE_PAUSE=soon", "HEADGATE_LATER=1"}, nil, 2, "HEADGATE_PAUSE"},
		{"variable that sets a flag", []string{"HEADGATE_DO=end"}, nil, 0, `"set":["admin-listen","do"]`},
		{"flag that wins over its variable", []string{"HEADGATE_DO=fail"}, []string{"--do=end"}, 0, `"stopped"`},
		{"variables of a Service called headgate", []string{"HEADGATE_PORT=tcp://10.0.0.1:80", "HEADGATE_SERVICE_HOST=10.0.0.1"}, []string{"--do=end"}, 0, `"stopped"`},
		{"version", nil, []string{"--version"}, 0, process.Version()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := tt.args
			if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--admin-listen") }) {
				args = append([]string{"--admin-listen=127.0.0.1:0"}, args...)
			}
			cmd := program(t, tt.environment, args...)
			out, _ := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != tt.code {
				t.Errorf("exit code = %d; want %d; it wrote\n%s", got, tt.code, out)
			}
			if !strings.Contains(string(out), tt.says) {
				t.Errorf("it wrote\n%s\nwant %q in it", out, tt.says)
			}
			if bytes.Contains(out, []byte("hunter2")) || bytes.Contains(out, []byte("whsec_c")) || bytes.Contains(out, []byte("whsec_a")) {
				t.Errorf("it wrote\n%s\nwith a secret in it", out)
			}
			if lines := bytes.Count(out, []byte("\n")); tt.code == 2 && !strings.Contains(tt.name, "found by run") && lines != 1 {
				t.Errorf("it wrote\n%s\nin %d lines; want 1", out, lines)
			}
		})
	}
}

func TestMain_HelpIsComplete(t *testing.T) {
	t.Parallel()
	secret := "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ="
	cmd := program(t, []string{"HEADGATE_SECRET=" + secret, "HEADGATE_PAUZE=1", "NATS_URL=nats://user:hunter2@nats", "COLUMNS=200"}, "--help")
	help, err := cmd.Output()
	if err != nil {
		t.Fatalf("--help: %v", err)
	}
	for _, want := range []string{
		"A program for tests.",
		`--admin-listen=":9090"`, "$HEADGATE_ADMIN_LISTEN",
		`--log-level="info"`, "$HEADGATE_LOG_LEVEL",
		`--log-format="json"`, "$HEADGATE_LOG_FORMAT",
		"--pause=TIME", "$HEADGATE_PAUSE", "Default: 10s.",
		"--secret=STRING", "$HEADGATE_SECRET",
		`--nats-url="nats://127.0.0.1:4222"`, "$NATS_URL",
		"--version",
	} {
		if !strings.Contains(string(help), want) {
			t.Errorf("--help does not say %q:\n%s", want, help)
		}
	}
	if bytes.Contains(help, []byte("c2VjcmV0")) || bytes.Contains(help, []byte("hunter2")) {
		t.Errorf("--help shows a secret of the environment:\n%s", help)
	}
}

// A started program runs, and its log is read.
type started struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan map[string]any
}

func start(t *testing.T, args ...string) *started {
	t.Helper()
	cmd := program(t, nil, append([]string{"--admin-listen=127.0.0.1:0"}, args...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &started{t: t, cmd: cmd, lines: make(chan map[string]any, 100)}
	go func() {
		defer close(s.lines)
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			line := map[string]any{"raw": scanner.Text()}
			if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
				line["msg"] = scanner.Text()
			}
			s.lines <- line
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		for range s.lines {
		}
		cmd.Wait()
	})
	return s
}

// until reads the log to the line with the message and returns that line.
func (s *started) until(msg string) map[string]any {
	s.t.Helper()
	for line := range s.lines {
		if line["msg"] == msg {
			return line
		}
	}
	s.t.Fatalf("the log ended before %q", msg)
	return nil
}

func (s *started) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// end waits until the program has exited and returns its exit code.
func (s *started) end() int {
	for range s.lines {
	}
	s.cmd.Wait()
	return s.cmd.ProcessState.ExitCode()
}

func TestMain_FirstSignalStops(t *testing.T) {
	t.Parallel()
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		for _, do := range []string{"serve", "cancel"} {
			t.Run(fmt.Sprintf("%v during %s", sig, do), func(t *testing.T) {
				s := start(t, "--do="+do)
				s.until("running")
				s.signal(sig)
				s.until("stopping")
				s.until("stopped")
				if got := s.end(); got != 0 {
					t.Errorf("exit code = %d; want 0", got)
				}
			})
		}
	}
}

func TestMain_SecondSignalExitsAtOnce(t *testing.T) {
	t.Parallel()
	for sig, want := range map[os.Signal]int{syscall.SIGTERM: 143, os.Interrupt: 130} {
		t.Run(sig.String(), func(t *testing.T) {
			s := start(t, "--do=stay")
			s.until("running")
			s.signal(syscall.SIGTERM)
			s.until("staying")
			s.signal(sig)
			if got := s.end(); got != want {
				t.Errorf("exit code = %d; want %d", got, want)
			}
		})
	}
}

func TestAdmin_AnswersUntilTheEnd(t *testing.T) {
	t.Parallel()
	s := start(t, "--do=stay")
	address, _ := s.until("admin listener")["address"].(string)
	s.until("running")
	probe(t, address, "/livez", 200, "alive")
	probe(t, address, "/readyz", 200, "ok    door")
	probe(t, address, "/metrics", 200, `headgate_build_info{goversion="go`, `process="program"`, `headgate_ready{process="program"} 1`, "go_goroutines", "process_start_time_seconds")
	s.signal(syscall.SIGTERM)
	s.until("staying")
	probe(t, address, "/livez", 200, "alive")
	probe(t, address, "/readyz", 503, "stopping")
}

func probe(t *testing.T, address, path string, status int, says ...string) {
	t.Helper()
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != status {
		t.Errorf("GET %s = %d; want %d; body %q", path, res.StatusCode, status, body)
	}
	for _, want := range says {
		if !strings.Contains(string(body), want) {
			t.Errorf("GET %s = %q; want %q in it", path, body, want)
		}
	}
}

func TestProcess_PartsShareMetrics(t *testing.T) {
	t.Parallel()
	p := process.New("dev", zap.NewNop())
	admin, err := p.ServeAdmin("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()

	for _, name := range []string{"ingress", "connections"} {
		part := p.Named(name)
		counter := newCounter()
		part.Metrics.MustRegister(counter)
		counter.Inc()
	}
	probe(t, admin.Addr(), "/metrics", 200, `events_total{process="ingress"} 1`, `events_total{process="connections"} 1`)
}

func TestListen_NamesThePortInUse(t *testing.T) {
	t.Parallel()
	taken, err := process.Listen("--listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	_, err = process.Listen("--listen", taken.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "port "+port+" is in use") || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("Listen on a port that is taken = %v; want the port and the flag in it", err)
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		err  error
		want int
	}{
		{"nil", nil, 0},
		{"nil as misconfigured", process.Misconfigured(nil), 0},
		{"error", io.EOF, 1},
		{"wrong settings", process.Misconfigured(io.EOF), 2},
		{"wrong settings within another error", fmt.Errorf("starting: %w", process.Misconfigured(io.EOF)), 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := process.ExitCode(tt.err); got != tt.want {
				t.Errorf("ExitCode(%v) = %d; want %d", tt.err, got, tt.want)
			}
		})
	}
	if !errors.Is(process.Misconfigured(io.EOF), io.EOF) {
		t.Error("Misconfigured(io.EOF) is not io.EOF")
	}
}

func TestFlags_OfCommands(t *testing.T) {
	t.Parallel()
	var grammar struct {
		Send struct {
			To string `help:"Where."`
		} `cmd:"" help:"Send."`
		Quiet bool `env:"-" help:"Say less."`
	}
	flags, err := process.Flags(&grammar)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, f := range flags {
		got[f.Name] = f.Envs
	}
	if len(got) != 2 || !slices.Equal(got["to"], []string{"HEADGATE_TO"}) || len(got["quiet"]) != 0 {
		t.Errorf("Flags = %v; want to with HEADGATE_TO, and quiet with none", got)
	}
}

func TestSettings_ConsoleLog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := process.Settings{LogFormat: "console", LogLevel: "warn"}.Logger(&out)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("unseen")
	log.Warn("seen", zap.Duration("took", 1500*time.Millisecond))
	if got := out.String(); strings.Contains(got, "unseen") || !strings.Contains(got, "WARN\tseen\t{\"took\": \"1.5s\"}") {
		t.Errorf("the log = %q; want the warning alone, in the console format", got)
	}
}
