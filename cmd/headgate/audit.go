package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/claims/pgclaims"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// auditCmd verifies that every stored event has exactly one state for each worker.
type auditCmd struct {
	Worker       []string          `name:"worker" env:"-" help:"Only this worker; can be repeated. All provisioned workers by default."`
	Since        timeFlag          `name:"since" env:"-" placeholder:"TIME" help:"Only what was stored at this time or later: a duration before now (90m, 3d), a date, or a date and time."`
	Waiting      bool              `name:"waiting" env:"-" help:"List also the waiting events, with their attempts and the time of the next one."`
	Expect       string            `name:"expect" env:"-" placeholder:"FILE" help:"Compare with an independent count: lines with a webhook-id that was sent, or with {\"webhook_id\":…,\"worker\":…} for an effect of a worker. - is standard input."`
	SecretFile   process.FileNames `name:"secret-file" env:"-" placeholder:"FILE" help:"Verify the signatures of the stored bytes again, with the keys in this file. Reads every body."`
	Postgres     map[string]string `name:"postgres" env:"-" mapsep:"none" placeholder:"WORKER=URL" help:"The worker keeps its claims in this PostgreSQL database (pgclaims); can be repeated. Others can read the flag in the list of processes: give the password in PGPASSWORD or a password file."`
	Settle       time.Duration     `name:"settle" env:"-" default:"2s" hidden:"" help:"Pause before what looks wrong is read a second time; longer than a replica can lag."`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a name that no worker can have, and for a pause that is not positive.
func (c *auditCmd) Validate() error {
	if c.Settle <= 0 {
		return fmt.Errorf("--settle must be greater than 0s (got %s)", c.Settle)
	}
	for _, w := range slices.Concat(c.Worker, slices.Collect(maps.Keys(c.Postgres))) {
		if err := stream.ValidateWorker(w); err != nil {
			return err
		}
	}
	return nil
}

// Run audits, and returns an error when there is an exception.
func (c *auditCmd) Run(ctx context.Context, t *terminal) error {
	expect, err := c.expectation(t)
	if err != nil {
		return process.Misconfigured(fmt.Errorf("--expect: %w", err))
	}
	verify, err := c.verifier()
	if err != nil {
		return process.Misconfigured(fmt.Errorf("--secret-file: %w", err))
	}
	external, closeAll, err := c.externalClaims(ctx)
	if err != nil {
		return process.Misconfigured(fmt.Errorf("--postgres: %w", err))
	}
	defer closeAll()
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	progress := newProgressBar(t)
	report, err := audit.Audit{
		JS: nc, Source: nc.source, Workers: c.Worker, ExternalClaims: external, Since: c.Since.Time,
		Settle: c.Settle, Expect: expect, Verify: verify, Progress: progress.show,
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

func (c *auditCmd) expectation(t *terminal) (*audit.Expectation, error) {
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

// externalClaims returns the claims in PostgreSQL, by worker.
func (c *auditCmd) externalClaims(ctx context.Context) (claims map[string]audit.Claims, closeAll func(), err error) {
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

// verifier returns nil without keys. It does not check the time of a signature.
func (c *auditCmd) verifier() (func(nats.Header, []byte) error, error) {
	if len(c.SecretFile) == 0 {
		return nil, nil
	}
	keyOf, err := storedVerifier(c.SecretFile)
	return func(h nats.Header, body []byte) error {
		_, err := keyOf(h, body)
		return err
	}, err
}

// storedVerifier returns a function that verifies a stored event again, whenever it was signed, with the keys in files, and returns
// the fingerprint of the key that did.
func storedVerifier(files process.FileNames) (func(h nats.Header, body []byte) (key string, err error), error) {
	keys, err := (&ingress.Settings{SecretFile: files}).Keys()
	if err != nil {
		return nil, err
	}
	verifier := signature.NewVerifier(math.MaxInt64, time.Now, keys...)
	return func(h nats.Header, body []byte) (string, error) {
		signed := http.Header{}
		for _, name := range []string{stream.HeaderWebhookID, stream.HeaderWebhookTimestamp, stream.HeaderWebhookSignature} {
			signed.Set(name, h.Get(name))
		}
		unverified, err := verifier.Read(signed)
		if err != nil {
			return "", err
		}
		verified, err := verifier.Verify(unverified, body)
		return verified.Key, err
	}, nil
}

// retries returns the waiting events when --waiting asks for them.
func (c *auditCmd) retries(r audit.Report) []audit.Retry {
	if !c.Waiting {
		return nil
	}
	var all []audit.Retry
	for _, w := range r.Workers {
		all = append(all, w.Retries...)
	}
	return all
}

// An auditReport is what audit prints as one document.
type auditReport struct {
	audit.Report
	Retries []audit.Retry `json:"waiting,omitempty"` // with --waiting
}

// print prints a report: of -o jsonl a line for each waiting event and each exception, and one for the numbers; of -o id the
// webhook-ids of the exceptions.
func (c *auditCmd) print(t *terminal, r audit.Report) error {
	retries := c.retries(r)
	switch c.format() {
	case outputJSON:
		return printJSON(t.out, document{outputVersion, auditReport{r, retries}})
	case outputID:
		return exceptionListing.report(t, c.outputFlags, all(r.Exceptions))
	case outputLines:
		for _, retry := range retries {
			if err := printJSON(t.out, retry); err != nil {
				return err
			}
		}
		for _, e := range r.Exceptions {
			if err := printJSON(t.out, e); err != nil {
				return err
			}
		}
		r.Exceptions = nil
		return printJSON(t.out, r)
	}
	return c.printReport(t.out, r, retries)
}

var exceptionListing = listing[audit.Exception]{
	noun: "exception",
	id:   func(e audit.Exception) string { return cmp.Or(e.WebhookID, strconv.FormatUint(e.Sequence, 10)) },
}

// printReport writes the quarantine, the waiting events, the exceptions, and the numbers last.
func (c *auditCmd) printReport(w io.Writer, r audit.Report, retries []audit.Retry) error {
	var b strings.Builder
	for _, m := range r.Quarantined {
		fmt.Fprintf(&b, "quarantined  #%-8d  %-31s  %s\n", m.Sequence, printable(m.WebhookID), printable(m.Reason))
	}
	for _, retry := range retries {
		next := "an attempt is running"
		if !retry.Next.IsZero() {
			next = "next at " + formatTime(retry.Next)
		}
		fmt.Fprintf(&b, "%-11s  #%-8d  %-31s  %s  %s%s: %s, %s\n", retry.State, retry.Sequence, printable(retry.WebhookID), printable(retry.Worker),
			printable(retry.Type), redriveSuffix(retry.Redrive), plural(retry.Attempts, "attempt"), next)
	}
	for _, e := range r.Exceptions {
		fmt.Fprintf(&b, "EXCEPTION    #%-8d  %-31s  %s  %s%s: %s: %s\n", e.Sequence, printable(e.WebhookID), printable(cmp.Or(e.Worker, e.Server)),
			printable(cmp.Or(e.Type, e.Stream)), redriveSuffix(e.Redrive), e.Kind, printable(e.Detail))
	}
	for _, one := range r.Workers {
		fmt.Fprintf(&b, "%s: %s: %d done, %d waiting, %d parked, %d dead, %d to come, %s\n",
			one.Name, plural(one.Events, "event"), one.Done, one.Waiting, one.Parked, one.Dead, one.ToCome, plural(one.Exceptions, "exception"))
	}
	b.WriteString(copiesLine(r.Copies))
	fmt.Fprintf(&b, "%s stored, %d quarantined, %s, %s\n", plural(r.Stored, "event"), len(r.Quarantined), plural(len(r.Workers), "worker"), plural(len(r.Exceptions), "exception"))
	_, err := fmt.Fprint(w, b.String())
	return err
}

// copiesLine says on which servers a stream was read.
func copiesLine(s audit.Scrubbed) string {
	return fmt.Sprintf("%s: %s read on %s, %d deleted\n", s.Stream, plural(int(s.Messages), "message"), cmp.Or(strings.Join(s.Servers, ", "), "no server"), s.Deleted)
}

// redriveSuffix names the redrive of an event, if it has one.
func redriveSuffix(redrive string) string {
	if redrive == "" {
		return ""
	}
	return " redrive " + printable(redrive)
}
