package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/embedded"
	"github.com/headgate/headgate/pkg/watchfile"
	"github.com/headgate/headgate/workers/builtin"
)

// serveCmd runs a NATS server that waits for the disk, the ingress, the built-in workers of each source and the metrics of
// headgate watch in one process, in production. The settings of the ingress are its own; those of the workers are the
// environment variables of their binaries.
type serveCmd struct {
	DataDir      string           `name:"data-dir" default:"/var/lib/headgate" placeholder:"FOLDER" help:"Folder with all data. One process uses it at a time."`
	NATSListen   string           `name:"nats-listen" default:"127.0.0.1:4222" help:"Address (host:port) of the NATS server, for the commands of headgate, other workers and services. An address that other machines reach needs --nats-users."`
	NATSUsers    string           `name:"nats-users" placeholder:"FILE" help:"File of the public nkeys (U…) of the users that may connect to the NATS server, one per line. They may do everything there. It is read at the start. Without it, every process of this machine may connect."`
	MaxFileStore process.ByteSize `name:"max-file-store" default:"24GiB" placeholder:"SIZE" help:"Size that all streams and buckets together may reserve on the disk."`

	relayRoutes      `embed:""`
	ingress.Settings `embed:""`

	// Flags of the ingress that serve does not have: it connects to its own server and provisions it, and headgate has
	// --version.
	NATSURL, NATSCreds, NATSNKey, NATSCA, NATSCert, NATSKey, Provision, Version struct{} `kong:"-"`
}

// What a first start reserves for 100,000 events a day (docs/operate.md, Capacity). headgate provision changes it.
const (
	serveMaxBytes       = 4 << 30
	serveClaimsMaxBytes = 1 << 30
)

// watchInterval is the time between two collections of the metrics of streams: the default of headgate watch.
const watchInterval = 15 * time.Second

// serveIndex is the memory of the index of headgate find: the default of headgate watch.
const serveIndex = 64 << 20

// BeforeApply is kong's hook before the flags are applied. The address of the server is not known before it listens, and the
// settings of the ingress must have one.
func (c *serveCmd) BeforeApply() error {
	c.NATS = stream.NATS{NATSURL: "nats://127.0.0.1:4222"}
	return nil
}

// Validate returns an error for a setting that cannot be used. It reads the files that the settings name.
func (c *serveCmd) Validate() error {
	if c.DataDir == "" {
		return errors.New("--data-dir must name a folder")
	}
	if err := process.ValidateListen("--nats-listen", c.NATSListen); err != nil {
		return err
	}
	if c.NATSUsers == "" && !onLoopback(c.NATSListen) {
		return fmt.Errorf("--nats-listen %s can be reached from other machines: name the users that may connect with --nats-users, or listen on 127.0.0.1", c.NATSListen)
	}
	if _, err := c.users(); err != nil {
		return err
	}
	if c.MaxFileStore <= 0 {
		return errors.New("--max-file-store must be greater than 0: 24GiB is the default")
	}
	if err := c.Settings.Validate(); err != nil {
		return err
	}
	if _, err := c.relayRoutes.read(); err != nil {
		return err
	}
	if _, err := environmentWatchdog(); err != nil {
		return err
	}
	for _, w := range builtin.Workers() {
		if len(w.Missing()) > 0 {
			continue // it does not run
		}
		if err := w.Validate(partArgs(c.Source, c.AdminListen, c.NATS.NATSURL, "")); err != nil {
			return fmt.Errorf("%s: %w", w.Program(), err)
		}
	}
	return nil
}

// onLoopback reports whether only processes of this machine reach an address.
func onLoopback(listen string) bool {
	host, _, _ := net.SplitHostPort(listen) // it was validated
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// users returns the public nkeys in the file of users, and none without a file.
func (c *serveCmd) users() ([]string, error) {
	if c.NATSUsers == "" {
		return nil, nil
	}
	file := watchfile.Lines[string]{Setting: "--nats-users", Value: "public nkey", Names: []string{c.NATSUsers}, Parse: publicKey}
	users, problems := file.Read()
	if len(problems) > 0 {
		return nil, problems[0]
	}
	if len(users) == 0 {
		return nil, fmt.Errorf("--nats-users: %s has no public nkey: write one per line", c.NATSUsers)
	}
	return users, nil
}

// publicKey reads the public nkey of a user. Its error does not quote the line, which can be a seed.
func publicKey(line string) (string, error) {
	if strings.HasPrefix(line, "S") {
		return "", errors.New("it is a seed, which belongs to the user alone: write its public nkey, U…")
	}
	if !nkeys.IsValidPublicUserKey(line) {
		return "", errors.New("it is not the public nkey of a user: it begins with U and has 56 characters")
	}
	return line, nil
}

// Run runs until ctx ends or a signal stops the process. Then the ingress drains, after it the workers stop, and the server
// last. Nothing touches the data folder before the settings are valid and the ports free.
func (c *serveCmd) Run(ctx context.Context, t *terminal) error {
	if checked, err := c.Check(t.out); checked || err != nil {
		return err
	}
	if err := c.Validate(); err != nil { // a second time: it knows now which settings are given
		return process.Misconfigured(err)
	}
	return process.Serve("headgate", c.Settings.Settings, t.err, func(serving context.Context, p *process.Process) error {
		serving, cancel := context.WithCancel(serving)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return c.serve(serving, p)
	})
}

// serve starts the server, provisions it and runs the parts until ctx ends.
func (c *serveCmd) serve(ctx context.Context, p *process.Process) error {
	if err := claimPorts(port{"--listen", &c.Listen, false}, port{"--nats-listen", &c.NATSListen, false}); err != nil {
		return err
	}
	users, err := c.users()
	if err != nil {
		return process.Misconfigured(err)
	}
	server, err := embedded.Start(embedded.Options{
		Dir: c.DataDir, Listen: c.NATSListen, MaxStore: int64(c.MaxFileStore), Users: users, Log: p.Log,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err := server.Shutdown(); err != nil {
			p.Log.Error("NATS server", zap.Error(err))
		}
	}()
	p.Log.Info("NATS server", zap.String("address", server.Addr()), zap.String("data", c.DataDir), zap.Int("users", len(users)))
	c.NATS = stream.NATS{NATSURL: "nats://" + dialAddress(server.Addr()), NATSNKey: server.NKey()}
	sources, err := c.SourceNames()
	if err != nil {
		return process.Misconfigured(err)
	}
	if err := c.provision(ctx, sources, p.Log); err != nil {
		if ctx.Err() != nil {
			return nil // stopped before the start was complete
		}
		return err
	}
	return c.runParts(ctx, p, sources)
}

// provision makes what the sources and the workers need. A stream that exists keeps its limits.
func (c *serveCmd) provision(ctx context.Context, sources []stream.Source, log *zap.Logger) error {
	nc, err := stream.Connect(ctx, c.NATS, "provision", log)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := stream.Connected(ctx, nc); err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	specs, err := c.specs()
	if err != nil {
		return process.Misconfigured(err)
	}
	for _, source := range sources {
		layout := stream.Layout{Source: source, Workers: specs}
		if _, err := js.Stream(ctx, source.Stream()); errors.Is(err, jetstream.ErrStreamNotFound) {
			layout.MaxBytes, layout.ClaimsMaxBytes = serveMaxBytes, serveClaimsMaxBytes
		}
		if err := stream.EnsureProvisioned(ctx, js, layout, log); err != nil {
			return fmt.Errorf("provision source %s: %w", source, err)
		}
	}
	return nil
}

// runParts runs the ingress, and the workers and metrics of each source, until ctx ends or one of them fails. The workers stop
// when the ingress has ended, so that nothing is stored after them.
func (c *serveCmd) runParts(ctx context.Context, p *process.Process, sources []stream.Source) error {
	dog, err := environmentWatchdog()
	if err != nil {
		return err
	}
	parts, failed := errgroup.WithContext(context.WithoutCancel(ctx))
	receiving, stopReceiving := context.WithCancel(ctx)
	defer stopReceiving()
	defer context.AfterFunc(failed, stopReceiving)()
	working, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorking()

	launch := func(name string, run func(*process.Process) error) {
		named := p.Named(name) // before any part runs, so that the process is not ready until all parts are
		parts.Go(func() error {
			if err := run(named); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	workers, err := c.parts(p.Log)
	if err != nil {
		return process.Misconfigured(err)
	}
	for _, source := range sources {
		suffix := ""
		if len(sources) > 1 {
			suffix = "-" + string(source)
		}
		args := partArgs(source, c.AdminListen, c.NATS.NATSURL, c.NATS.NATSNKey)
		for _, worker := range workers {
			launch(worker.name+suffix, func(p *process.Process) error { return worker.run(working, args, p) })
		}
		watch := watchCmd{NATS: c.NATS, Source: source, Interval: watchInterval, IndexMemory: serveIndex, watchdogSettings: dog}
		launch("watch"+suffix, func(p *process.Process) error { return watch.watch(working, p) })
	}
	launch(ingressPart.name, func(p *process.Process) error {
		defer stopWorking()
		return ingress.Run(receiving, &c.Settings, p)
	})
	parts.Go(func() error { return watchFolder(working, c.DataDir) })
	if err := parts.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
