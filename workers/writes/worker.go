package writes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

// Settings are the settings of every worker, those of Codat's API, and when a write is overdue.
type Settings struct {
	workers.Settings `embed:""`
	Codat            api.Settings `embed:""`

	OverdueAfter time.Duration `name:"overdue-after" default:"1h" help:"Time after which a push operation that is still Pending is marked overdue, from 1m to 24h. With an API key Codat is asked first, and the operation's own timeoutInMinutes counts when it is later."`
}

// Validate returns an error that names the first setting with a value that cannot be used.
func (s *Settings) Validate() error {
	err := errors.Join(s.Settings.Validate(), s.Codat.Validate())
	if s.OverdueAfter < minOverdueAfter || s.OverdueAfter > maxOverdueAfter {
		err = errors.Join(err, fmt.Errorf("--overdue-after must be from %s to %s (got %s)", minOverdueAfter, maxOverdueAfter, s.OverdueAfter))
	}
	if s.Attempts > 0 && s.Attempts < minAttempts {
		err = errors.Join(err, fmt.Errorf("--attempts must be at least %d for this worker (got %d): the event of a write that stays Pending is attempted when it comes and when its outcome is due", minAttempts, s.Attempts))
	}
	return err
}

// Run runs the worker until ctx ends. With an API key it carries out write plans, and asks Codat's API for the reasons of
// failures and for the outcomes of overdue writes.
func Run(ctx context.Context, s *Settings, p *process.Process) error {
	var asked pushAPI
	if s.Codat.Enabled() {
		client, err := api.New(s.Codat, p.Metrics)
		if err != nil {
			return process.Misconfigured(err)
		}
		defer client.Close()
		asked = client
		var watch sync.WaitGroup
		defer watch.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		watch.Go(func() { client.WatchKey(ctx, p.Log) })
		p.Health.Add("codat key", func(context.Context) error { return process.Warning(client.KeyProblem()) })
	}
	m, ends := newMetrics(p.Metrics), newStepEnds()
	p.Metrics.MustRegister(ends)
	return workers.Run(ctx, s.Settings, p, Worker(Store{}), func(ctx context.Context, parts workers.Parts) (workers.Worker, error) {
		records, err := parts.State(ctx, state.WritesName)
		if err != nil {
			return workers.Worker{}, err
		}
		quota, err := parts.State(ctx, state.QuotaName)
		if err != nil {
			return workers.Worker{}, err
		}
		m.quota.bucket.Store(&quota)
		store := Store{writes: records, quota: quota, overdueAfter: s.OverdueAfter, overdue: m.overdue}
		if asked == nil {
			return Worker(store), nil
		}
		store.pushes = asked
		bucket, err := parts.State(ctx, plan.StateName)
		if err != nil {
			return workers.Worker{}, err
		}
		carried := newPlans(bucket, store, asked, ends, defaultPace(s.Codat.CodatTimeout))
		carried.source, carried.log = parts.Source, parts.Log
		return carried.worker(parts.JS.Conn()), nil
	})
}

// A Store writes the records of one source. The zero Store is enough for the Spec of a Worker.
type Store struct {
	writes, quota jetstream.KeyValue
	pushes        pushes // nil without an API key
	overdueAfter  time.Duration
	overdue       prometheus.Counter
	wake          func(plan string) // nil when no plans are carried out
}

// keepWrites is as long as dead letters are kept: until then a failed write can be tried again, and its record be needed.
const keepWrites = 90 * 24 * time.Hour

// Worker returns the worker that writes to a store. Every event about a write, of the current and of the legacy types, adds
// what it says, and so does every event about the quota.
func Worker(s Store) workers.Worker {
	return workers.Worker{
		Name:        Name,
		State:       []string{state.WritesName, state.QuotaName, plan.StateName},
		StateMaxAge: map[string]time.Duration{state.WritesName: keepWrites, plan.StateName: keepWrites},
		Requests:    []string{"plans.*"},
		Begin:       stream.BeginAll(), // the state of a write follows from all of its events
		Handlers: []workers.Handler{
			workers.Handle(codat.AnyWriteSuccessful, s.write(codat.Success)),
			workers.Handle(codat.AnyWriteUnsuccessful, s.write(codat.Failed)),
			workers.Handle(codat.PushOperationStatusChanged, s.statusChanged),
			workers.Handle(codat.PushOperationTimedOut, s.timedOut),
			workers.Handle(codat.RateLimitReached, s.rateLimit(true)),
			workers.Handle(codat.RateLimitReset, s.rateLimit(false)),
			workers.Handle(codat.ClientRateLimitReached, s.legacyReached),
			workers.Handle(codat.ClientRateLimitReset, s.legacyReset),
		},
	}
}

// write handles an event of the current types. missing is the status when the payload has none.
func (s Store) write(missing codat.PushStatus) func(context.Context, codat.Event[codat.Write]) error {
	return func(ctx context.Context, e codat.Event[codat.Write]) error {
		w := e.Payload
		f := fact(e)
		dataType, _, _ := strings.Cut(e.Type, ".")
		f.DataType, f.Kind, f.Status = codat.DataType(dataType), w.Type, cmp.Or(w.Status, missing)
		f.Requested, f.Completed = w.RequestedOnDate.Time, w.CompletedOnDate.Time
		f.Record, f.Attachment = w.Record.ID, w.AttachmentID
		_, err := s.add(ctx, w.PushOperationKey(), f, false)
		return err
	}
}

func (s Store) statusChanged(ctx context.Context, e codat.Event[codat.Rule[codat.PushOperationStatusChangedData]]) error {
	d := e.Payload.Data
	if d.Status == "" {
		return workers.Permanent(errors.New("the event has no status of the push operation"))
	}
	f := fact(e)
	f.DataType, f.Status = d.DataType, d.Status
	record, err := s.add(ctx, d.PushOperationKey, f, true)
	if err != nil {
		return err
	}
	return s.follow(ctx, record, e.Attempt)
}

func (s Store) timedOut(ctx context.Context, e codat.Event[codat.Rule[codat.PushOperationTimedOutData]]) error {
	f := fact(e)
	f.DataType, f.Status = e.Payload.Data.DataType, codat.TimedOut
	_, err := s.add(ctx, e.Payload.Data.Key(), f, true)
	return err
}

// add adds a fact to the record of a write, and then the reason of a failure, and returns the record without this reason.
// Adding it again changes nothing. Its errors are those of workers.UpdateRecord and of askReason, and a permanent one for a
// push operation key that no record can have.
func (s Store) add(ctx context.Context, pushOperationKey string, f state.WriteFact, legacy bool) (record state.Write, err error) {
	key, err := state.WriteKey(pushOperationKey)
	if err != nil {
		return record, workers.Permanent(err)
	}
	err = workers.UpdateRecord(ctx, s.writes, key, func(r state.Write) state.Write {
		r.PushOperationKey = key
		record = with(r, f, legacy)
		return record
	})
	if err != nil {
		return record, err
	}
	err = s.askReason(ctx, record)
	if record.Plan != "" && s.wake != nil {
		s.wake(record.Plan)
	}
	return record, err
}

func fact[P any](e codat.Event[P]) state.WriteFact {
	return state.WriteFact{
		Type: e.Type, WebhookID: e.WebhookID, Generated: e.Generated, Received: e.Received, Sequence: e.Sequence,
		Company: e.Company, Connection: e.Connection,
	}
}

func (s Store) rateLimit(exhausted bool) func(context.Context, codat.Event[codat.RateLimit]) error {
	return func(ctx context.Context, e codat.Event[codat.RateLimit]) error {
		q := quota(e, e.Payload.ExpiryDate)
		q.Exhausted, q.Daily, q.Remaining = exhausted, number(e.Payload.DailyQuota), number(e.Payload.QuotaRemaining)
		return s.setQuota(ctx, q)
	}
}

func (s Store) legacyReached(ctx context.Context, e codat.Event[codat.Rule[codat.ClientRateLimitReachedData]]) error {
	q := quota(e, e.Payload.Data.ExpiresUTC)
	q.Exhausted, q.Daily = true, number(e.Payload.Data.DailyQuota)
	return s.setQuota(ctx, q)
}

func (s Store) legacyReset(ctx context.Context, e codat.Event[codat.Rule[codat.ClientRateLimitResetData]]) error {
	q := quota(e, e.Payload.Data.ExpiresUTC)
	q.Daily, q.Remaining = number(e.Payload.Data.DailyQuota), number(e.Payload.Data.QuotaRemaining)
	return s.setQuota(ctx, q)
}

func (s Store) setQuota(ctx context.Context, q state.Quota) error {
	return workers.UpdateRecord(ctx, s.quota, state.QuotaKey, func(r state.Quota) state.Quota { return newest(r, q) })
}

// quota returns what an event says of the quota whose renewal is at a time. Quotas are renewed at 00:00 UTC.
func quota[P any](e codat.Event[P], renewal codat.Time) state.Quota {
	q := state.Quota{
		Type: e.Type, WebhookID: e.WebhookID, Generated: e.Generated, Received: e.Received, Sequence: e.Sequence,
		Renewal: renewal.Time,
	}
	if q.Renewal.IsZero() {
		q.Renewal = orElse(q.Generated, q.Received).UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
	}
	return q
}

// number returns a number of calls, and 0 for what is not a whole number.
func number(n json.Number) int64 {
	calls, _ := n.Int64()
	return calls
}
