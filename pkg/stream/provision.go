package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// ErrRefused means that Provision left an object as it is, because the change could lose events or because the server
// cannot make it. Everything else in the layout was carried out. The command headgate provision fails with it; a process
// that provisions at its start logs it and goes on with what is there (EnsureProvisioned).
var ErrRefused = errors.New("refused")

// ownerKey and owner mark the consumers that Provision created, so that it does not change those of other services.
const (
	ownerKey = "owner"
	owner    = "headgate"
)

// Provision creates what the layout needs, updates what differs, and returns a Change for every object, in order. With dry
// it changes nothing. It never deletes an object, several processes may run it at once, and a second run changes nothing.
//
// A change that could lose events is refused unless the layout allows it: the Change says Refuse and why, everything
// else is carried out, and the error is ErrRefused. A consumer keeps filters that the layout does not have, because another
// version of the worker may need them, and a higher limit of pending acks; the Change notes it.
func Provision(ctx context.Context, js jetstream.JetStream, p Layout, dry bool) ([]Change, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	pr := provisioner{js: js, dry: dry, allowLoss: p.AllowLoss}
	err := pr.run(ctx, p)
	if err == nil {
		err = pr.refusals()
	}
	return pr.changes, err
}

// EnsureProvisioned provisions at the start of a process, and logs each object that it made, changed or left as it is. A
// refusal (ErrRefused) is a warning in the log and no error: the process goes on with what is there, and Bind or Check
// says whether that is enough. Any other error means that the layout is not in place; trying again can cure it.
func EnsureProvisioned(ctx context.Context, js jetstream.JetStream, l Layout, log *zap.Logger) error {
	changes, err := Provision(ctx, js, l, false)
	for _, c := range changes {
		switch c.Action {
		case Create, Update:
			log.Info("provisioned", zap.Stringer("change", c))
		case Refuse:
			log.Warn("provisioning refused", zap.Stringer("change", c))
		}
	}
	if errors.Is(err, ErrRefused) {
		return nil
	}
	return err
}

type provisioner struct {
	js        jetstream.JetStream
	dry       bool
	allowLoss bool
	changes   []Change
}

func (pr *provisioner) run(ctx context.Context, p Layout) error {
	s := p.Source
	events, err := pr.stream(ctx, p.eventStream())
	if err != nil {
		return err
	}
	p.eventReplicas = events.Replicas
	p.MaxAge = events.MaxAge // the present value, also when the layout leaves it open: claims outlive the events

	streams := []desiredStream{
		p.deadStream(), p.parkedStream(), p.operatorStream(),
		p.bucket(s.WorkersBucket(), workersTTL, 0, workersMaxBytes),
		p.bucket(s.StateBucket(ExpectedState), expectedMaxAge, 0, expectedMaxBytes),
	}
	states := map[string]time.Duration{}
	for _, w := range p.Workers {
		streams = append(streams, p.bucket(s.ClaimsBucket(w.Name), p.MaxAge+claimsGrace, p.ClaimsMaxBytes, DefaultClaimsMaxBytes))
		for _, state := range w.State {
			keep, ok := states[state]
			if age := w.StateMaxAge[state]; !ok || keep > 0 && (age == 0 || age > keep) {
				states[state] = age // the longest of the workers that write it
			}
		}
	}
	for _, state := range slices.Sorted(maps.Keys(states)) {
		streams = append(streams, p.state(state, states[state]))
	}
	others, err := pr.otherClaims(ctx, p)
	if err != nil {
		return err
	}
	for _, w := range append(streams, others...) {
		if _, err := pr.stream(ctx, w); err != nil {
			return err
		}
	}
	var consumers []desiredConsumer
	for _, w := range p.Workers {
		consumers = append(consumers, w.eventConsumer(s), w.parkedConsumer(s))
	}
	if p.Support {
		consumers = append(consumers, p.supportConsumer())
	}
	for _, c := range consumers {
		if err := pr.consumer(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// otherClaims returns the buckets of claims of workers that are not in the layout. They too have to outlive the events, whose
// max age the layout may raise.
func (pr *provisioner) otherClaims(ctx context.Context, p Layout) ([]desiredStream, error) {
	prefix := bucketPrefix + p.Source.ClaimsBucket("")
	ours := map[string]bool{}
	for _, w := range p.Workers {
		ours[prefix+w.Name] = true
	}
	var others []desiredStream
	err := request(ctx, pr.js, "STREAM.LIST", func(ctx context.Context) error {
		others = nil
		all := pr.js.ListStreams(ctx, jetstream.WithStreamListSubject("$KV.*.>"))
		for info := range all.Info() {
			if name := info.Config.Name; strings.HasPrefix(name, prefix) && !ours[name] {
				others = append(others, desiredStream{name, func(c *jetstream.StreamConfig) {
					if c.MaxAge > 0 {
						c.MaxAge = max(c.MaxAge, p.MaxAge+claimsGrace)
					}
				}})
			}
		}
		return all.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list the claims of other workers: %w", err)
	}
	return others, nil
}

// refusals returns one error for all refused changes.
func (pr *provisioner) refusals() error {
	var words []string
	for _, c := range pr.changes {
		if c.Action == Refuse {
			words = append(words, c.Object+": "+strings.Join(c.Notes, "; "))
		}
	}
	if words == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrRefused, strings.Join(words, "; "))
}

// stream creates or updates a stream and returns its configuration afterwards, also in a dry run.
func (pr *provisioner) stream(ctx context.Context, w desiredStream) (jetstream.StreamConfig, error) {
	doing := "provision " + w.object()
	for try := 0; ; try++ {
		info, err := streamInfo(ctx, pr.js, w.name)
		missing := errors.Is(err, jetstream.ErrStreamNotFound)
		if err != nil && !missing {
			return jetstream.StreamConfig{}, fmt.Errorf("%s: %w", doing, err)
		}
		var change Change
		var want jetstream.StreamConfig
		if missing {
			want.Name = w.name
			w.apply(&want)
			want.Metadata = monitored(want.Metadata, nil, monitorOfStream(&want))
			change = Change{Object: w.object(), Action: Create, Fields: diff(provisionedStream, nil, &want)}
		} else {
			have := info.Config
			want = have
			w.apply(&want)
			want.Metadata = monitored(want.Metadata, monitorOfStream(&have), monitorOfStream(&want))
			change = pr.judgeStream(w, &want, info)
			if change.Action == Refuse {
				want = have
			}
		}
		if !pr.dry && change.Action != Same && change.Action != Refuse {
			err := request(ctx, pr.js, w.name, func(ctx context.Context) error {
				if missing {
					_, err := pr.js.CreateStream(ctx, want)
					return err
				}
				_, err := pr.js.UpdateStream(ctx, want)
				return err
			})
			if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) && try < maxRaces {
				continue // another process created it first: compare with that
			}
			if err != nil {
				return jetstream.StreamConfig{}, fmt.Errorf("%s: %w", doing, err)
			}
		}
		pr.changes = append(pr.changes, change)
		return want, nil
	}
}

// maxRaces bounds how often an object is compared again because another process created it at the same time.
const maxRaces = 5

// judgeStream decides what to do with an existing stream. A change that removes subjects, messages or replicas is a loss.
func (pr *provisioner) judgeStream(w desiredStream, want *jetstream.StreamConfig, info *jetstream.StreamInfo) Change {
	have, state := info.Config, info.State
	change := Change{Object: w.object(), Action: Same, Fields: diff(provisionedStream, &have, want)}
	if len(change.Fields) == 0 {
		return change
	}
	change.Action = Update

	if have.Retention != want.Retention || have.Storage != want.Storage {
		change.Action = Refuse
		change.Notes = append(change.Notes, fmt.Sprintf(
			"the storage and retention of a stream cannot be changed: copy its messages, delete it (nats stream rm %s) and provision again", w.name))
		return change
	}
	var losses []string
	if oldest := time.Since(state.FirstTime); want.MaxAge > 0 && state.Msgs > 0 && oldest > want.MaxAge {
		losses = append(losses, fmt.Sprintf("it holds messages of %v: with a max age of %s they would be deleted at once, read or not", oldest.Round(time.Second), format(want.MaxAge)))
	}
	if want.MaxBytes > 0 && state.Bytes > uint64(want.MaxBytes) {
		losses = append(losses, fmt.Sprintf("it holds %v: with max bytes of %v it would refuse every new message", size(state.Bytes), size(want.MaxBytes)))
	}
	if want.Replicas < have.Replicas {
		losses = append(losses, fmt.Sprintf("%d replicas instead of %d: fewer lost disks would lose stored messages", want.Replicas, have.Replicas))
	}
	if gone := uncovered(want.Subjects, have.Subjects); len(gone) > 0 {
		losses = append(losses, fmt.Sprintf("it would no longer take %s", strings.Join(gone, " ")))
	}
	pr.judgeLosses(&change, losses)
	return change
}

// judgeLosses refuses a change with losses, unless the layout allows them.
func (pr *provisioner) judgeLosses(change *Change, losses []string) {
	change.Notes = append(change.Notes, losses...)
	if len(losses) > 0 && !pr.allowLoss {
		change.Action = Refuse
		change.Notes = append(change.Notes, "pass --allow-loss to apply it")
	}
}

// consumer creates or updates a consumer.
func (pr *provisioner) consumer(ctx context.Context, w desiredConsumer) error {
	doing := "provision " + w.object()
	for try := 0; ; try++ {
		have, err := pullConsumer(ctx, pr.js, w.stream, w.name)
		missing := errors.Is(err, jetstream.ErrConsumerNotFound) || pr.dry && errors.Is(err, jetstream.ErrStreamNotFound)
		if err != nil && !missing {
			return fmt.Errorf("%s: %w", doing, err)
		}
		var change Change
		var want jetstream.ConsumerConfig
		if missing {
			w.apply(&want)
			change = Change{Object: w.object(), Action: Create}
			begin, note, err := pr.begin(ctx, w)
			if err != nil {
				return fmt.Errorf("%s: %w", doing, err)
			}
			begin.deliverFrom(&want)
			want.Metadata = monitored(want.Metadata, nil, monitorOfConsumer(&want))
			change.Fields = append(diff(provisionedConsumer, nil, &want), Field{Name: "begin", Want: begin.String()})
			change.Notes = note
		} else {
			want = have.CachedInfo().Config
			w.apply(&want)
			if change, err = pr.judgeConsumer(ctx, w, &want, have.CachedInfo()); err != nil {
				return fmt.Errorf("%s: %w", doing, err)
			}
		}
		if !pr.dry && change.Action != Same && change.Action != Refuse {
			err := request(ctx, pr.js, w.stream+"."+w.name, func(ctx context.Context) error {
				if missing {
					_, err := pr.js.CreateConsumer(ctx, w.stream, want)
					return err
				}
				_, err := pr.js.UpdateConsumer(ctx, w.stream, want)
				return err
			})
			if (errors.Is(err, jetstream.ErrConsumerExists) || errors.Is(err, jetstream.ErrConsumerDoesNotExist)) && try < maxRaces {
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w", doing, err)
			}
		}
		pr.changes = append(pr.changes, change)
		return nil
	}
}

// begin returns where a consumer begins that is missing. The worker of a consumer that was deleted begins when its claims
// begin, and not with new events: the claims tell what is done, and nothing is skipped.
func (pr *provisioner) begin(ctx context.Context, w desiredConsumer) (Begin, []string, error) {
	if w.begin != BeginNew() || w.claims == "" {
		return w.begin, nil, nil
	}
	claims := desiredStream{name: bucketPrefix + w.claims}
	for _, c := range pr.changes {
		if c.Object == claims.object() && c.Action == Create {
			return w.begin, nil, nil
		}
	}
	info, err := streamInfo(ctx, pr.js, claims.name)
	if err != nil {
		return w.begin, nil, err
	}
	return BeginFrom(info.Created), []string{fmt.Sprintf(
		"the worker was provisioned before: it begins with the events since then, and its claims tell which of them are done; to begin with new events, remove it first (headgate remove worker %s)", w.name)}, nil
}

// judgeConsumer decides what to do with an existing consumer, and adds the filters to want that are kept.
func (pr *provisioner) judgeConsumer(ctx context.Context, w desiredConsumer, want *jetstream.ConsumerConfig, info *jetstream.ConsumerInfo) (Change, error) {
	have := info.Config
	change := Change{Object: w.object(), Action: Same}
	planned := want.FilterSubjects
	had := filtersOf(&have)

	extra := uncovered(planned, had)
	if len(extra) > 0 && !pr.allowLoss {
		want.FilterSubjects = widest(slices.Concat(planned, had))
		change.Notes = append(change.Notes, fmt.Sprintf(
			"it keeps %s, which this layout does not have: another version of the worker may need it, and without it waiting events would never be delivered; pass --allow-loss to remove it", strings.Join(extra, " ")))
	}
	if wider := have.MaxAckPending; (wider < 0 || wider > want.MaxAckPending) && !pr.allowLoss {
		change.Notes = append(change.Notes, fmt.Sprintf(
			"it keeps max ack pending %d, which is more than the %d of this layout: with fewer places, what waits could take those of events that can run; pass --allow-loss to lower it", wider, want.MaxAckPending))
		want.MaxAckPending = wider
	}
	want.Metadata = monitored(want.Metadata, monitorOfConsumer(&have), monitorOfConsumer(want))
	change.Fields = diff(provisionedConsumer, &have, want)
	if len(change.Fields) == 0 {
		return change, nil
	}
	change.Action = Update

	if have.Metadata[ownerKey] != owner {
		pr.judgeLosses(&change, []string{"headgate provision did not create it: it may be another service's; give the worker another name"})
	}
	if have.AckPolicy != want.AckPolicy {
		change.Action = Refuse
		change.Notes = append(change.Notes, fmt.Sprintf("the ack policy of a consumer cannot be changed: delete it (nats consumer rm %s %s) and provision again with a begin that misses no event", w.stream, w.name))
	}
	for i, f := range want.FilterSubjects {
		for _, g := range want.FilterSubjects[i+1:] {
			if overlap(f, g) {
				change.Action = Refuse
				change.Notes = append(change.Notes, fmt.Sprintf("%s and %s overlap, and the server refuses both on one consumer: pass --allow-loss to remove the one that this layout does not have", f, g))
			}
		}
	}
	if change.Action != Update {
		return change, nil
	}
	for _, f := range uncovered(had, want.FilterSubjects) {
		n, err := pr.stored(ctx, w.stream, f)
		if err != nil {
			return change, err
		}
		if n > 0 && info.Delivered.Stream > 0 {
			change.Notes = append(change.Notes, fmt.Sprintf(
				"%d stored messages match %s; those up to sequence %d are not delivered by this change: headgate replay --worker %s delivers them", n, f, info.Delivered.Stream, w.name))
		}
	}
	return change, nil
}

// stored counts the messages under a filter.
func (pr *provisioner) stored(ctx context.Context, name, filter string) (n uint64, err error) {
	st, err := openStream(ctx, pr.js, name)
	if err != nil {
		return 0, err
	}
	err = request(ctx, pr.js, name, func(ctx context.Context) error {
		info, err := st.Info(ctx, jetstream.WithSubjectFilter(filter))
		if err != nil {
			return err
		}
		for _, count := range info.State.Subjects {
			n += count
		}
		return nil
	})
	return n, err
}
