package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers/audit"
	"github.com/headgate/headgate/workers/pgclaims"
)

// auditing proves that every stored event has one end for each worker.
type auditing struct {
	Worker     []string          `name:"worker" env:"-" help:"Only this worker; may be given again. All that are provisioned if not given."`
	Since      moment            `name:"since" env:"-" placeholder:"TIME" help:"Only what was stored then or later: how long ago (90m, 3d), or a date or time."`
	Waiting    bool              `name:"waiting" env:"-" help:"List also the events that wait, with their attempts and when they are tried again."`
	Expect     string            `name:"expect" env:"-" placeholder:"FILE" help:"Compare with an independent count: lines with a webhook-id that was sent, or with {\"webhook_id\":…,\"worker\":…} for an effect that a worker had. - is the standard input."`
	SecretFile []string          `name:"secret-file" env:"-" placeholder:"FILE" help:"Prove the signatures of the stored bytes again, under the keys in this file. Reads every body."`
	Postgres   map[string]string `name:"postgres" env:"-" mapsep:"none" placeholder:"WORKER=URL" help:"The worker keeps its claims in this PostgreSQL database (pgclaims); may be given again. Others can read the flag in the list of processes: give the password in PGPASSWORD or a password file."`
	JSON       bool              `name:"json" env:"-" help:"Print JSON."`
	broker     `embed:""`
}

// Validate reports workers whose names cannot be ones.
func (c *auditing) Validate() error {
	for _, w := range slices.Concat(c.Worker, slices.Collect(maps.Keys(c.Postgres))) {
		if err := stream.ValidateWorker(w); err != nil {
			return err
		}
	}
	return nil
}

// Run audits, and returns an error when there is an exception.
func (c *auditing) Run(ctx context.Context, t *terminal) error {
	expect, err := c.expectation(t)
	if err != nil {
		return process.Misconfigured(fmt.Errorf("--expect: %w", err))
	}
	prove, err := c.prove()
	if err != nil {
		return process.Misconfigured(fmt.Errorf("--secret-file: %w", err))
	}
	elsewhere, closeAll, err := c.elsewhere(ctx)
	if err != nil {
		return process.Misconfigured(fmt.Errorf("--postgres: %w", err))
	}
	defer closeAll()
	l, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer l.close()
	progress := newBar(t)
	report, err := audit.Audit{
		JS: l, Source: l.source, Workers: c.Worker, Elsewhere: elsewhere, Since: c.Since.Time,
		Expect: expect, Prove: prove, Progress: progress.show,
	}.Run(ctx)
	progress.clear()
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if err := c.print(t, report); err != nil {
		return err
	}
	if n := len(report.Exceptions); n > 0 {
		return errors.New(plural(n, "exception"))
	}
	return nil
}

func (c *auditing) expectation(t *terminal) (*audit.Expectation, error) {
	switch c.Expect {
	case "":
		return nil, nil
	case "-":
		return audit.ReadExpectation(t.in)
	}
	f, err := os.Open(c.Expect)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	return audit.ReadExpectation(f)
}

// elsewhere are the claims that are in PostgreSQL.
func (c *auditing) elsewhere(ctx context.Context) (claims map[string]audit.Claims, closeAll func(), err error) {
	var pools []*pgxpool.Pool
	closeAll = func() {
		for _, p := range pools {
			p.Close()
		}
	}
	claims = map[string]audit.Claims{}
	for worker, url := range c.Postgres {
		pool, err := pgxpool.New(ctx, url)
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("database of %s: %w", worker, err) // it masks the password
		}
		pools = append(pools, pool)
		claims[worker] = pgclaims.New(pool, worker, nil)
	}
	return claims, closeAll, nil
}

// prove is nil without keys. The time of a signature is not looked at: it was when the event came.
func (c *auditing) prove() (func(nats.Header, []byte) error, error) {
	if len(c.SecretFile) == 0 {
		return nil, nil
	}
	keys, err := (&ingress.Settings{SecretFile: c.SecretFile}).Keys()
	if err != nil {
		return nil, err
	}
	verifier := signature.NewVerifier(math.MaxInt64, time.Now, keys...)
	return func(h nats.Header, body []byte) error {
		signed := http.Header{}
		for _, name := range []string{stream.HeaderWebhookID, stream.HeaderWebhookTimestamp, stream.HeaderWebhookSignature} {
			signed.Set(name, h.Get(name))
		}
		unproven, err := verifier.Read(signed)
		if err == nil {
			_, err = verifier.Prove(unproven, body)
		}
		return err
	}, nil
}

// print lists the quarantine, what waits if that was asked for, the exceptions, and the numbers last.
func (c *auditing) print(t *terminal, r audit.Report) error {
	var waits []audit.Wait
	if c.Waiting {
		for _, w := range r.Workers {
			waits = append(waits, w.Waits...)
		}
	}
	if c.JSON {
		for _, w := range waits {
			if err := printJSON(t.out, w); err != nil {
				return err
			}
		}
		for _, e := range r.Exceptions {
			if err := printJSON(t.out, e); err != nil {
				return err
			}
		}
		numbers := r
		numbers.Exceptions = nil
		return printJSON(t.out, numbers)
	}
	var b strings.Builder
	for _, m := range r.Quarantined {
		fmt.Fprintf(&b, "quarantined  #%-8d  %-31s  %s\n", m.Sequence, clean(m.WebhookID), clean(m.Reason))
	}
	for _, w := range waits {
		next := "an attempt runs"
		if !w.Next.IsZero() {
			next = "next at " + when(w.Next)
		}
		fmt.Fprintf(&b, "%-11s  #%-8d  %-31s  %s  %s%s: %s, %s\n", w.Standing, w.Sequence, clean(w.WebhookID), clean(w.Worker),
			clean(w.Type), again(w.Redrive), plural(w.Attempts, "attempt"), next)
	}
	for _, e := range r.Exceptions {
		fmt.Fprintf(&b, "EXCEPTION    #%-8d  %-31s  %s  %s%s: %s: %s\n", e.Sequence, clean(e.WebhookID), clean(e.Worker),
			clean(e.Type), again(e.Redrive), e.Kind, clean(e.Detail))
	}
	for _, w := range r.Workers {
		fmt.Fprintf(&b, "%s: %s: %d done, %d waiting, %d parked, %d dead, %d to come, %s\n",
			w.Name, plural(w.Events, "event"), w.Done, w.Waiting, w.Parked, w.Dead, w.ToCome, plural(w.Exceptions, "exception"))
	}
	fmt.Fprintf(&b, "%s stored, %d quarantined, %s, %s\n", plural(r.Stored, "event"), len(r.Quarantined), plural(len(r.Workers), "worker"), plural(len(r.Exceptions), "exception"))
	_, err := fmt.Fprint(t.out, b.String())
	return err
}

// again says in which redrive, if it was one.
func again(redrive string) string {
	if redrive == "" {
		return ""
	}
	return " redrive " + clean(redrive)
}
