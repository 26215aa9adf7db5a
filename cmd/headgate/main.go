// Command headgate is the command for development and operation: it runs everything in one process, sends example events,
// prints stored events, gives dead letters and events again, releases messages from the quarantine, and audits. It prints
// no key, and payloads only on request.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/workers/builtin"
	"github.com/headgate/headgate/workers/relay"
)

const help = `Develop with and operate Headgate, which stores Codat's webhooks in NATS JetStream and handles them.

Lists print a table; --output chooses JSON or ids, and --json one JSON object on a line. The exit code is 0 on success; 1 when something failed, was refused, was not found, differs (provision --dry-run) or is wrong (audit, doctor); 2 when the command line or a setting is wrong; 3 when NATS or Codat was not reached or did not answer in time; 4 when NATS or Codat does not permit it; and 130 when a signal ended a command before it was done.`

// commands are the commands of headgate. A flag for one run has no environment variable, because a forgotten one would
// change what a command does. Settings of an environment, such as addresses and keys, have one.
type commands struct {
	Dev         devCmd         `cmd:"" help:"Run everything in one process, with an embedded NATS server: for development."`
	Serve       serveCmd       `cmd:"" help:"Run everything in one process, with an embedded NATS server that waits for the disk: for production on one machine."`
	Send        sendCmd        `cmd:"" help:"Sign example events, or a file, as Codat does, and post them."`
	Verify      verifyCmd      `cmd:"" help:"Say whether a captured request is proven, or which known mistake explains its signature."`
	Tail        tailCmd        `cmd:"" help:"Print stored events as they arrive."`
	Find        findCmd        `cmd:"" help:"Tell what became of one event, or list the events of a company, a connection or a push operation."`
	Dead        deadCmd        `cmd:"" help:"List, show and replay dead letters: events that a worker gave up."`
	Replay      replayCmd      `cmd:"" help:"Give stored events to one worker again, also those that are done or dead."`
	Quarantine  quarantineCmd  `cmd:"" help:"List, show and release quarantined messages: verified requests that are not events."`
	Plans       plansCmd       `cmd:"" help:"Submit, list, show, resume, retry, skip and cancel write plans: writes to a platform that depend on each other."`
	Connections connectionsCmd `cmd:"" help:"List and show the state of connections: status, since when, by which event, and the changes before."`
	Writes      writesCmd      `cmd:"" help:"List and show what became of writes to accounting platforms."`
	Reads       readsCmd       `cmd:"" help:"List and show how fresh the data is that Codat has read, for each connection and data type."`
	Endpoints   endpointsCmd   `cmd:"" help:"List, create and delete the endpoints that Codat posts to."`
	Expected    expectedCmd    `cmd:"" help:"List what should have come from Codat and has not: silent types, overdue writes, stale reads. headgate watch keeps the list."`
	Doctor      doctorCmd      `cmd:"" help:"Examine the installation: settings, keys, NATS, streams, consumers, workers, and the endpoints at Codat. It changes nothing."`
	Audit       auditCmd       `cmd:"" help:"Verify that every stored event has exactly one state for each worker: done, waiting, parked or dead."`
	Scrub       scrubCmd       `cmd:"" help:"Read every message of every stream and bucket from each server that has a copy: finds damage that nothing else reports."`
	Provision   provisionCmd   `cmd:"" help:"Create or update the streams, consumers and buckets of the built-in workers, and with --spec of others."`
	Backup      backupCmd      `cmd:"" help:"Copy all streams, consumers and buckets to a folder, while everything runs. It needs the key of provision."`
	Restore     restoreCmd     `cmd:"" help:"Make all streams, consumers and buckets of a backup, on servers that have none of them. It needs the key of provision."`
	Erase       eraseCmd       `cmd:"" help:"Erase everything that is stored of one company: events, dead letters, records. It needs the key of admin."`
	Remove      removeCmd      `cmd:"" help:"Remove a worker or a source. It needs the key of admin."`
	Streams     streamsCmd     `cmd:"" help:"List the streams and buckets: how much they have, which server leads each, and which others have copies."`
	StepDown    stepDownCmd    `cmd:"" help:"Have another server lead a stream. It needs the key of admin."`
	Types       typesCmd       `cmd:"" help:"List the event types of the catalog, what an ingress has seen that is not in it, or the differences to an OpenAPI file of Codat's."`
	Workers     workersCmd     `cmd:"" help:"List the running workers."`
	Pause       pauseCmd       `cmd:"" help:"Pause a worker, so that the server delivers it nothing: it needs no running process, and survives restarts."`
	Resume      resumeCmd      `cmd:"" help:"End the pause of a worker."`
	Watch       watchCmd       `cmd:"" help:"Export metrics of the streams, consumers and workers to Prometheus, also of workers that do not run."`
	Console     consoleCmd     `cmd:"" help:"Serve web pages that show the path of events and what needs a person, and act for users with the right to."`
	New         newCmd         `cmd:"" help:"Write the files of a new worker, in a clone of Headgate's repository."`
	Keys        keysCmd        `cmd:"" help:"Make the secrets of a deployment: a key for each process, and the configuration with which NATS servers recognise them."`
	Completion  completionCmd  `cmd:"" help:"Print the script with which a shell completes the commands and flags of headgate."`
	Man         manCmd         `cmd:"" help:"Print the manual page."`

	Color   string           `name:"color" env:"-" default:"auto" enum:"auto,always,never" help:"Colours for states: auto (on a terminal, unless NO_COLOR is set), always or never."`
	Version kong.VersionFlag `name:"version" env:"-" help:"Print the version and exit."`
}

func main() {
	// The first signal ends the command cleanly, the second one ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], standardStreams()))
}

// run runs one command and returns the exit code. All output is printable.
func run(ctx context.Context, args []string, t *terminal) int {
	t = t.printable()
	t.args = args
	grammar := new(commands)
	command, err := process.Parse("headgate", help, grammar, args, kong.PostBuild(prepare))
	if err == nil {
		t.setColor(grammar.Color)
		err = warnOfUnknownVariables(t)
	}
	if err == nil {
		command.BindTo(ctx, (*context.Context)(nil))
		err = t.explainDenied(withCure(command.Run(t)))
	}
	if err != nil {
		fmt.Fprintf(t.err, "headgate: %v\n", err)
	}
	return exitCode(ctx, err)
}

// exitWith is an error with an exit code of its own.
type exitWith struct {
	code int
	error
}

func (e exitWith) Unwrap() error { return e.error }

// errNotReached means that there was no connection to NATS.
var errNotReached = errors.New("cannot reach NATS")

// exitCode returns the exit code that the help promises. A server that refuses a user or a subject is reached.
func exitCode(ctx context.Context, err error) int {
	if e, is := errors.AsType[exitWith](err); is {
		return e.code
	}
	code := process.ExitCode(err)
	if code != 1 {
		return code
	}
	is := func(marks ...error) bool {
		return slices.ContainsFunc(marks, func(mark error) bool { return errors.Is(err, mark) })
	}
	switch {
	case ctx.Err() != nil && is(context.Canceled):
		return 130
	case is(nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrPermissionViolation, api.ErrAccount):
		return 4
	case is(errNotReached, context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrConnectionClosed, api.ErrUnavailable):
		return 3
	}
	return 1
}

// warnOfUnknownVariables warns of variables that neither headgate nor a program that headgate dev or headgate serve runs reads.
func warnOfUnknownVariables(t *terminal) error {
	warnings, err := unknownVariables()
	for _, warning := range warnings {
		fmt.Fprintf(t.err, "headgate: %s\n", warning)
	}
	return err
}

// unknownVariables returns a warning for each of these variables.
func unknownVariables() ([]string, error) {
	grammars := []any{new(commands), new(ingress.Settings), new(relay.Settings)}
	for _, w := range builtin.Workers() {
		grammars = append(grammars, w.Settings())
	}
	return process.UnknownVariables("headgate", grammars...)
}

// withCure adds the cure to an error of JetStream.
func withCure(err error) error {
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrBucketNotFound):
		return fmt.Errorf("%w: run headgate provision, or choose another --source", err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: JetStream does not answer: enable it on the server and for this account", err)
	}
	return err
}
