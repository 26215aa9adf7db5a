// Command headgate is for those who develop with Headgate and those who operate it: it runs everything on a laptop,
// sends example events, follows what is stored, and works on dead letters and the quarantine. It prints no key and,
// unless it is asked to, no payload.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/process"
)

const help = `The operator's command of Headgate, which stores Codat's webhooks in NATS JetStream and works on them.

It prints for people, and with --json for programs: one JSON object on a line. It exits 0 when it did what it was asked, 1 when something failed, was refused, is not there, or differs (provision --dry-run), or when something is wrong (audit), and 2 when the command line or a setting is wrong.`

// commands are all that headgate can do. What a command is told for this time only has no environment variable: a
// forgotten one would change what a command does. Settings of a place, such as addresses and keys, have one.
type commands struct {
	Dev        dev        `cmd:"" help:"Run everything in this process, with a NATS server inside: for a laptop."`
	Send       send       `cmd:"" help:"Sign example events, or a file, as Codat does, and post them."`
	Tail       tail       `cmd:"" help:"Follow the stored events."`
	Dead       dead       `cmd:"" help:"Dead letters: what workers gave up."`
	Replay     replay     `cmd:"" help:"Give stored events to one worker again, whatever became of them."`
	Quarantine quarantine `cmd:"" help:"The quarantine: what is proven and cannot be read as an event."`
	Audit      auditing   `cmd:"" help:"Prove that every stored event has one end for each worker: done, waiting, or dead."`
	Provision  provision  `cmd:"" help:"Make the streams, consumers and buckets of the built-in workers, or say what differs."`
	Workers    instances  `cmd:"" help:"List the workers that run now."`
	Watch      watch      `cmd:"" help:"Export metrics of the streams and workers to Prometheus, also of workers that do not run."`
	Keys       keys       `cmd:"" help:"Make the secrets of a deployment: a key for each process, and what the NATS servers need to know them."`

	Version kong.VersionFlag `name:"version" env:"-" help:"Print the version and exit."`
}

func main() {
	// The first signal ends the command cleanly, a second one at once.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], &terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}

// run is a whole main, and returns the exit code.
func run(ctx context.Context, args []string, t *terminal) int {
	command, err := process.Parse("headgate", help, new(commands), args)
	if err == nil {
		command.BindTo(ctx, (*context.Context)(nil))
		err = withCure(command.Run(t))
	}
	if err != nil {
		fmt.Fprintf(t.err, "headgate: %v\n", err)
	}
	return process.ExitCode(err)
}

// withCure adds to an error of the broker what an operator can do about it.
func withCure(err error) error {
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrBucketNotFound):
		return fmt.Errorf("%w: it is not provisioned: run headgate provision, or name another --source", err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: nobody answers for JetStream: enable it on the server and for this account", err)
	}
	return err
}

// terminal is where a command reads, and where it writes what it was asked for and what else is to be said.
type terminal struct {
	in       io.Reader
	out, err io.Writer
}
