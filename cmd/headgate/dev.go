package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/embedded"
)

// devCmd runs a NATS server, the ingress and every built-in worker in one process, with the Run functions of the
// binaries.
type devCmd struct {
	Listen      string `name:"listen" default:"127.0.0.1:8080" help:"Address (host:port) of the webhook."`
	AdminListen string `name:"admin-listen" default:"127.0.0.1:9090" help:"Address (host:port) of the console, /livez, /readyz and /metrics."`
	NATSListen  string `name:"nats-listen" default:"127.0.0.1:4222" help:"Address (host:port) of the NATS server."`
	NoExamples  bool   `name:"no-examples" env:"-" help:"Do not send example events at the first start, and push no example with --with-codat."`
	WithCodat   bool   `name:"with-codat" env:"-" help:"Also run a stand-in for Codat's API, whose webhooks come to this ingress, and push an example to it."`
	CodatListen string `name:"codat-listen" default:"127.0.0.1:8090" help:"Address (host:port) of the stand-in for Codat's API of --with-codat."`
	LogLevel    string `name:"log-level" default:"warn" enum:"debug,info,warn,error" help:"Lowest level that is logged, on standard error: debug, info, warn or error."`

	Source      stream.Source `name:"source" default:"codat" help:"Name of the Codat instance."`
	relayRoutes `embed:""`
	keyFlags    `embed:""`

	standIn *devCodat
}

const (
	webhookPath = "/webhooks/codat"
	readyEvery  = 20 * time.Millisecond
)

// startExamples are the examples sent at the start. The connections worker handles them.
var startExamples = []string{"connection.created", "connection.connected", "read.completed"}

// Validate returns an error for a setting that cannot be used.
func (d *devCmd) Validate() error {
	if d.Data == "" {
		return errors.New("--data must name a folder")
	}
	_, err := d.relayRoutes.read()
	return errors.Join(
		err,
		process.ValidateListen("--listen", d.Listen),
		process.ValidateListen("--admin-listen", d.AdminListen),
		process.ValidateListen("--nats-listen", d.NATSListen),
		process.ValidateListen("--codat-listen", d.CodatListen),
		d.Source.Validate(),
	)
}

// Run runs until ctx ends. The stored events and the key stay in the data folder.
func (d *devCmd) Run(ctx context.Context, t *terminal) error {
	log, err := process.Settings{LogLevel: d.LogLevel, LogFormat: "console"}.Logger(t.err)
	if err != nil {
		return err
	}
	ports := []port{{"--listen", &d.Listen, true}, {"--admin-listen", &d.AdminListen, false}, {"--nats-listen", &d.NATSListen, false}}
	if d.WithCodat {
		ports = append(ports, port{"--codat-listen", &d.CodatListen, false})
	}
	if err := claimPorts(ports...); err != nil {
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
	// The embedded server holds a lock on the folder from here on.
	if err := d.prepare(t); err != nil {
		return err
	}

	out := zapcore.Lock(zapcore.AddSync(t.out))
	p := process.New("headgate", log)
	keys, keysErr := d.keys()
	specs, err := d.specs()
	if err = errors.Join(keysErr, err); err != nil {
		return process.Misconfigured(err)
	}
	p.Observer = &devLog{out: out, handled: handledTypes(specs), logged: log.Core().Enabled(zap.InfoLevel), keys: fingerprints(keys)}
	admin, err := p.ServeAdmin(d.AdminListen)
	if err != nil {
		return err
	}
	defer admin.Close()
	d.NATSListen, d.AdminListen = server.Addr(), admin.Addr()
	defer context.AfterFunc(ctx, p.Health.Drain)()

	before, err := d.provision(ctx, server, specs, log)
	switch {
	case err != nil && ctx.Err() != nil: // stopped before the start was complete
		return nil
	case err != nil:
		return err
	}
	stop, err := d.startWeb(server, p, admin, out)
	if err != nil {
		return err
	}
	defer stop()
	if err := d.runParts(ctx, p, server.ClientURL(), out, before); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\nstopped; stored events stay in %s\n", d.Data)
	return err
}

// startWeb starts the stand-in for Codat, if it is wanted, and the console, which asks it. stop ends both.
func (d *devCmd) startWeb(server *embedded.Server, p *process.Process, admin *process.Admin, out io.Writer) (stop func(), err error) {
	if d.standIn, err = d.startCodat(out); err != nil {
		return nil, err
	}
	stopConsole, err := d.startConsole(server, p, admin)
	if err != nil {
		d.standIn.close()
		return nil, err
	}
	return func() {
		stopConsole()
		d.standIn.close()
	}, nil
}

// runParts runs the ingress and the workers until ctx ends. It prints the banner and sends the examples when they are
// ready.
func (d *devCmd) runParts(ctx context.Context, p *process.Process, natsURL string, out io.Writer, before uint64) error {
	parts, ctx := errgroup.WithContext(ctx)
	if err := d.start(ctx, parts, natsURL, p); err != nil {
		return err
	}
	parts.Go(func() error {
		if !waitReady(ctx, p.Health) {
			return nil
		}
		if _, err := fmt.Fprint(out, d.banner(before)); err != nil {
			return err
		}
		if d.NoExamples {
			return nil
		}
		if before == 0 { // a later start finds the events of the first
			if err := d.sendExamples(ctx); err != nil {
				return err
			}
		}
		return d.standIn.pushExample(ctx, p)
	})
	parts.Go(func() error { return watchFolder(ctx, d.Data) })
	if err := parts.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// prepare makes the files in the data folder that the NATS server does not make.
func (d *devCmd) prepare(t *terminal) error {
	// The folder holds a key and is often inside a repository.
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
			fmt.Fprintf(t.err, "%s was readable by other users; its mode is 0600 now; to replace the key, remove the file and start again\n", keyFile(d.Data))
		}
	}
	_, err := d.keys()
	return process.Misconfigured(err)
}

func fingerprints(keys []signature.Key) []string {
	var all []string
	for _, key := range keys {
		all = append(all, key.Fingerprint())
	}
	return all
}

func handledTypes(specs []stream.WorkerSpec) []codat.Pattern {
	var types []codat.Pattern
	for _, spec := range specs {
		types = append(types, spec.Types...)
	}
	return types
}

// provision makes the objects of the source and the workers, and returns the number of messages stored before.
func (d *devCmd) provision(ctx context.Context, server *embedded.Server, specs []stream.WorkerSpec, log *zap.Logger) (before uint64, err error) {
	nc, err := server.Conn()
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	if !log.Core().Enabled(zap.DebugLevel) {
		log = log.WithOptions(zap.IncreaseLevel(zap.WarnLevel)) // a first start makes many objects
	}
	if err := stream.EnsureProvisioned(ctx, js, stream.Layout{Source: d.Source, Workers: specs}, log); err != nil {
		return 0, err
	}
	st, err := js.Stream(ctx, d.Source.Stream())
	if err != nil {
		return 0, err
	}
	return st.CachedInfo().State.Msgs, nil
}

// start runs the ingress and every worker. They read their own environment variables, except for those that connect them
// to each other.
func (d *devCmd) start(ctx context.Context, g *errgroup.Group, natsURL string, p *process.Process) error {
	workers, err := d.parts(p.Log)
	if err != nil {
		return process.Misconfigured(err)
	}
	common := partArgs(d.Source, d.AdminListen, natsURL, "")
	ingressArgs := append([]string{
		"--listen=" + d.Listen, "--path=" + webhookPath,
		"--drain-delay=0s", // there is no load balancer
	}, common...)
	files := d.SecretFile
	if len(d.Secret)+len(d.SecretFile) == 0 {
		files = []string{keyFile(d.Data)}
	}
	for _, f := range files {
		ingressArgs = append(ingressArgs, "--secret-file="+f)
	}
	for _, s := range d.Secret {
		ingressArgs = append(ingressArgs, "--secret="+s)
	}
	launch := func(part part, args []string) {
		named := p.Named(part.name) // before any part runs, so that the process is not ready until all parts are
		g.Go(func() error {
			if err := part.run(ctx, args, named); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
			return nil
		})
	}
	launch(ingressPart, ingressArgs)
	for _, worker := range workers {
		args := common
		if worker.callsCodat {
			args = slices.Concat(common, d.codatArgs())
		}
		launch(worker, args)
	}
	return nil
}

// waitReady waits until the process is ready. It returns false when ctx ended first.
func waitReady(ctx context.Context, h *process.Health) bool {
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

// banner says where everything is and what to type next.
func (d *devCmd) banner(before uint64) string {
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
	fmt.Fprintf(&b, `Headgate is running. Ctrl-C stops it.

  webhook  %s
  key      %s
  NATS     %s
  console  http://%s/
  health   http://%s/readyz
  data     %s
  events   %s%s

Next, in another terminal:

  %s send connection.disconnected%s
  %s tail%s%s

`, d.webhook(), key, d.natsURL(), dialAddress(d.AdminListen), dialAddress(d.AdminListen), d.Data, stored, d.codatBanner(),
		program(), d.sendFlags(), program(), d.natsFlags(), d.codatNext())
	return b.String()
}

func (d *devCmd) webhook() string { return "http://" + dialAddress(d.Listen) + webhookPath }
func (d *devCmd) natsURL() string { return "nats://" + dialAddress(d.NATSListen) }

// sendFlags and natsFlags return the flags with which headgate send and tail reach this process: none for the defaults.
func (d *devCmd) sendFlags() string {
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

func (d *devCmd) natsFlags() string {
	var flags string
	if d.natsURL() != "nats://127.0.0.1:4222" {
		flags += " --nats-url " + d.natsURL()
	}
	if d.Source != "codat" {
		flags += " --source " + string(d.Source)
	}
	return flags
}

// program returns the command that starts this program. The binary of go run does not outlive it.
func program() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/headgate"
	}
	return os.Args[0]
}

// sendExamples posts some events as Codat does.
func (d *devCmd) sendExamples(ctx context.Context) error {
	key, err := d.key()
	if err != nil {
		return err
	}
	s := newSender(d.webhook(), "--listen", key)
	defer s.close()
	for _, name := range startExamples {
		e, ok := examples.Of(name)
		if !ok {
			return fmt.Errorf("no example of %s", name)
		}
		if _, err := s.send(ctx, e, ""); err != nil {
			return err
		}
	}
	return nil
}
