package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"

	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/embedded"
)

// dev is everything in one process: a NATS server, the ingress and every worker, by the same Run functions as the
// separate binaries.
type dev struct {
	Listen      string `name:"listen" default:"127.0.0.1:8080" help:"Address (host:port) of the webhook."`
	AdminListen string `name:"admin-listen" default:"127.0.0.1:9090" help:"Address (host:port) of /livez, /readyz and /metrics."`
	NATSListen  string `name:"nats-listen" default:"127.0.0.1:4222" help:"Address (host:port) of the NATS server."`
	NoExamples  bool   `name:"no-examples" env:"-" help:"Send no example events at the start."`
	LogLevel    string `name:"log-level" default:"warn" enum:"debug,info,warn,error" help:"Least level that is logged, on standard error: debug, info, warn or error."`

	Source  stream.Source `name:"source" default:"codat" help:"Name of the Codat instance."`
	keyring `embed:""`
}

const (
	webhookPath = "/webhooks/codat"
	readyEvery  = 20 * time.Millisecond
)

// shown are the examples that are sent at the start: some of what the connections worker takes.
var shown = []string{"connection.created", "connection.connected", "read.completed"}

// Validate reports a setting that cannot be meant.
func (d *dev) Validate() error {
	if d.Data == "" {
		return errors.New("--data: give a folder")
	}
	return errors.Join(
		process.ValidateListen("--listen", d.Listen),
		process.ValidateListen("--admin-listen", d.AdminListen),
		process.ValidateListen("--nats-listen", d.NATSListen),
		d.Source.Validate(),
	)
}

// Run runs until ctx ends. What is stored, and the key, stay in the data folder for the next time.
func (d *dev) Run(ctx context.Context, t *terminal) error {
	log, err := process.Settings{LogLevel: d.LogLevel, LogFormat: "console"}.Logger(t.err)
	if err != nil {
		return err
	}
	if err := d.claimPorts(); err != nil {
		return err
	}
	server, err := embedded.Start(embedded.Options{Dir: d.Data, Listen: d.NATSListen, Log: log})
	if err != nil {
		return err
	}
	defer func() {
		if err := server.Shutdown(); err != nil {
			log.Error("NATS server", zap.Error(err))
		}
	}()
	// From here on the folder is ours alone.
	if err := d.prepare(t); err != nil {
		return err
	}

	out := zapcore.Lock(zapcore.AddSync(t.out))
	p := process.New("headgate", log)
	p.Log = p.Log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return &lines{core, out, takenTypes()}
	}))
	admin, err := p.ServeAdmin(d.AdminListen)
	if err != nil {
		return err
	}
	defer admin.Close()
	d.NATSListen, d.AdminListen = server.Addr(), admin.Addr()
	defer context.AfterFunc(ctx, p.Health.Drain)()

	before, err := d.provision(ctx, server, log)
	switch {
	case err != nil && ctx.Err() != nil: // told to end before it began
		return nil
	case err != nil:
		return err
	}
	parts, ctx := errgroup.WithContext(ctx)
	d.start(ctx, parts, server.ClientURL(), p)
	parts.Go(func() error {
		if !ready(ctx, p.Health) {
			return nil
		}
		if _, err := fmt.Fprint(out, d.greeting(before)); err != nil {
			return err
		}
		return d.sendExamples(ctx)
	})
	if err := parts.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	_, err = fmt.Fprintf(out, "\nstopped; what was stored stays in %s\n", d.Data)
	return err
}

// claimPorts asks for all ports before anything starts, and gives them back. A webhook at port 0 gets one that is free.
func (d *dev) claimPorts() error {
	for _, a := range []struct{ flag, address string }{
		{"--listen", d.Listen},
		{"--admin-listen", d.AdminListen},
		{"--nats-listen", d.NATSListen},
	} {
		ln, err := process.Listen(a.flag, a.address)
		if err != nil {
			return err
		}
		defer ln.Close()
		if a.flag == "--listen" {
			d.Listen = ln.Addr().String()
		}
	}
	return nil
}

// prepare puts into the data folder what must be there beside the events.
func (d *dev) prepare(t *terminal) error {
	// The folder often lies in a repository, and holds a key.
	ignore := filepath.Join(d.Data, ".gitignore")
	if _, err := os.Stat(ignore); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(ignore, []byte("*\n"), 0o600); err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
	}
	if len(d.Secret)+len(d.SecretFile) == 0 {
		repaired, err := ensureKey(d.Data)
		if err != nil {
			return err
		}
		if repaired {
			fmt.Fprintf(t.err, "%s could be read by others: now it cannot; if somebody has read it, remove it, and the next start makes another\n", keyFile(d.Data))
		}
	}
	_, err := d.key()
	return process.Misconfigured(err)
}

func takenTypes() []string {
	var types []string
	for _, w := range builtin {
		types = append(types, w.shape.Plan().Types...)
	}
	return types
}

// provision makes what the source and the workers need, and says how much was stored before.
func (d *dev) provision(ctx context.Context, server *embedded.Server, log *zap.Logger) (before uint64, err error) {
	nc, err := server.Conn()
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	plan := stream.Plan{Source: d.Source}
	for _, w := range builtin {
		plan.Workers = append(plan.Workers, w.shape.Plan())
	}
	changes, err := stream.Provision(ctx, js, plan, false)
	for _, c := range changes {
		log.Debug("provisioned", zap.Stringer("change", c))
	}
	if errors.Is(err, stream.ErrRefused) { // the data is another version's; what is there may do
		log.Warn("provision", zap.Error(err))
	} else if err != nil {
		return 0, err
	}
	st, err := js.Stream(ctx, d.Source.Stream())
	if err != nil {
		return 0, err
	}
	return st.CachedInfo().State.Msgs, nil
}

// start runs the ingress and every worker. Their own environment variables count here too, but for what ties them to
// each other.
func (d *dev) start(ctx context.Context, g *errgroup.Group, natsURL string, p *process.Process) {
	common := []string{
		"--source=" + string(d.Source), "--admin-listen=" + d.AdminListen, "--nats-url=" + natsURL,
		"--nats-creds=", "--nats-nkey=", "--nats-ca=", "--nats-cert=", "--nats-key=",
	}
	own := append([]string{
		"--listen=" + d.Listen, "--path=" + webhookPath,
		"--drain-delay=0s", // no balancer has to notice
	}, common...)
	files := d.SecretFile
	if len(d.Secret)+len(d.SecretFile) == 0 {
		files = []string{keyFile(d.Data)}
	}
	for _, f := range files {
		own = append(own, "--secret-file="+f)
	}
	for _, s := range d.Secret {
		own = append(own, "--secret="+s)
	}
	launch := func(part part, args []string) {
		named := p.Named(part.name) // before any part runs: the process is not ready before all parts are
		g.Go(func() error {
			if err := part.run(ctx, args, named); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
			return nil
		})
	}
	launch(door, own)
	for _, w := range builtin {
		launch(w.part, common)
	}
}

// ready waits until the process is ready; false means that ctx ended first.
func ready(ctx context.Context, h *process.Health) bool {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for h.Ready() != nil {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// greeting tells people where everything is and what to type next.
func (d *dev) greeting(before uint64) string {
	key := keyFile(d.Data)
	switch {
	case len(d.Secret) > 0:
		key = "as given with --secret or HEADGATE_SECRET"
	case len(d.SecretFile) > 0:
		key = strings.Join(d.SecretFile, ", ")
	}
	stored := "none yet"
	if before > 0 {
		stored = fmt.Sprintf("%d from before", before)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `Headgate runs. Ctrl-C ends it.

  webhook  %s
  key      %s
  NATS     %s
  health   http://%s/readyz
  data     %s
  events   %s

Next, in another terminal:

  %s send connection.disconnected%s
  %s tail%s

`, d.webhook(), key, d.natsURL(), reachable(d.AdminListen), d.Data, stored,
		program(), d.sendFlags(), program(), d.natsFlags())
	return b.String()
}

func (d *dev) webhook() string { return "http://" + reachable(d.Listen) + webhookPath }
func (d *dev) natsURL() string { return "nats://" + reachable(d.NATSListen) }

// reachable is a listener's address as a client on this machine can use it.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// sendFlags and natsFlags are what headgate send and tail need to find this process. Nothing when all is as usual.
func (d *dev) sendFlags() string {
	var flags string
	if d.webhook() != "http://127.0.0.1:8080"+webhookPath {
		flags += " --to " + d.webhook()
	}
	switch {
	case len(d.SecretFile) > 0 && len(d.Secret) == 0:
		flags += " --secret-file " + d.SecretFile[0]
	case len(d.Secret) == 0 && d.Data != ".headgate":
		flags += " --data " + d.Data
	}
	return flags
}

func (d *dev) natsFlags() string {
	var flags string
	if d.natsURL() != "nats://127.0.0.1:4222" {
		flags += " --nats-url " + d.natsURL()
	}
	if d.Source != "codat" {
		flags += " --source " + string(d.Source)
	}
	return flags
}

// program is this program as it can be typed again. The binary of go run is gone afterwards.
func program() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/headgate"
	}
	return os.Args[0]
}

// sendExamples posts some events as Codat does, so that something is seen to happen.
func (d *dev) sendExamples(ctx context.Context) error {
	if d.NoExamples {
		return nil
	}
	key, err := d.key()
	if err != nil {
		return err
	}
	s := newSender(d.webhook(), key)
	defer s.close()
	for _, name := range shown {
		e, ok := examples.Of(name)
		if !ok {
			return fmt.Errorf("there is no example of %s", name)
		}
		if _, err := s.send(ctx, e, ""); err != nil {
			return err
		}
	}
	return nil
}
