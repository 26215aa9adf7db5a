package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/bench/lab"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	replayOwn     = "headgate"
	replayAll     = "replay --all"
	replayLetters = "dead replay --all"
	replayNumbers = "dead replay -"
)

func replayCase(command string, events int) string {
	return fmt.Sprintf("headgate %s, %d events, from its start to its end, one server, fsync off", command, events)
}

// parseHeadgate reads NAME=PROGRAM.
func parseHeadgate(s string) (name, program string, err error) {
	name, program, is := strings.Cut(s, "=")
	if !is || name == "" || name == replayOwn {
		return "", "", fmt.Errorf("--headgate %s: want NAME=PROGRAM", s)
	}
	if program, err = filepath.Abs(program); err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		return "", "", fmt.Errorf("--headgate %s: %w", s, err)
	}
	return name, program, nil
}

// replayPart measures how many events headgate gives again in a second, beside other builds of headgate in turn.
func replayPart(ctx context.Context, b *bench) error {
	programs, names := map[string]string{replayOwn: b.programs["headgate"]}, []string{replayOwn}
	for _, other := range b.others {
		name, program, err := parseHeadgate(other)
		if err != nil {
			return err
		}
		programs[name], names = program, append(names, name)
	}
	servers, err := b.lab.NATS(ctx, b.programs["nats-server"], 1, false)
	if err != nil {
		return err
	}
	spec := stream.WorkerSpec{Name: findWorker, Types: []codat.Pattern{"read.completed", "*.write.successful"}}
	if err := provision(ctx, servers, workerSource, spec); err != nil {
		return err
	}
	b.progress("replay: store %d events and as many dead letters", b.events)
	events := newFindEvents(b.events, b.size)
	if err := events.store(ctx, servers); err != nil {
		return err
	}
	if err := events.bury(ctx, servers, b.events); err != nil {
		return err
	}
	var numbers bytes.Buffer
	for i := range b.events {
		numbers.WriteString(strconv.Itoa(i+1) + "\n")
	}
	for round := range b.rounds {
		for _, command := range []string{replayAll, replayLetters, replayNumbers} {
			for _, name := range shuffled(names) {
				b.progress("replay: round %d of %d, %s, %s", round+1, b.rounds, command, name)
				args := strings.Fields(command)
				if command == replayAll {
					args = append(args, "--worker", findWorker)
				} else {
					args = append(args, "--again")
				}
				given, took, err := b.replay(ctx, programs[name], append(args, "--nats-url", servers.URL), numbers.Bytes())
				if err != nil {
					return err
				}
				b.add(replayCase(command, b.events), name, eventsPerSecond, float64(given)/took.Seconds())
				if err := forget(ctx, servers); err != nil {
					return err
				}
			}
		}
	}
	return servers.Stop()
}

// forget deletes what was given, and the records of it, which the next run would read.
func forget(ctx context.Context, servers *lab.NATS) error {
	for name, subject := range map[string]string{
		workerSource.Stream():         workerSource.RedriveFilter(findWorker),
		workerSource.OperatorStream(): workerSource.OperatorSubject(),
	} {
		st, err := servers.JS.Stream(ctx, name)
		if err == nil {
			err = st.Purge(ctx, jetstream.WithPurgeSubject(subject))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replay runs headgate and returns how many events it gave, and in which time.
func (b *bench) replay(ctx context.Context, program string, args []string, input []byte) (given int, took time.Duration, err error) {
	cmd := exec.CommandContext(ctx, program, append(args, "--yes", "--rate", "1000000", "--source", string(workerSource))...)
	cmd.Stdin = bytes.NewReader(input)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took = time.Since(began)
	if err != nil {
		return 0, 0, fmt.Errorf("headgate %v: %w\n%s", args, err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if _, err := fmt.Sscanf(lines[len(lines)-1][strings.Index(lines[len(lines)-1], ": ")+2:], "%d", &given); err != nil {
		return 0, 0, fmt.Errorf("headgate %v says %q: %w", args, out, err)
	}
	return given, took, nil
}
