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
)

// ErrRefused means that Provision left something as it is, because events could have been lost by changing it or
// because a server cannot change it. Everything else in the plan was carried out.
var ErrRefused = errors.New("refused")

// Action is what Provision does about an object.
type Action string

// The actions.
const (
	Create Action = "create" // it was not there
	Update Action = "update" // it differed
	Same   Action = "same"   // nothing to do
	Refuse Action = "refuse" // it differs and stays so; the notes say why
)

// Change is what Provision did, or in a dry run would do, about one object.
type Change struct {
	Object string // for example "stream CODAT" or "consumer connections on CODAT"
	Action Action
	Fields []Field  // what differs; all of it where the object is made
	Notes  []string // what an operator should know about it
}

// Field is one setting of an object.
type Field struct {
	Name string
	Have string // "" where the object is made
	Want string
}

// String is the change for people: a line, and one more for each field and each note.
func (c Change) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-6s %s", c.Action, c.Object)
	for _, f := range c.Fields {
		if f.Have == "" {
			fmt.Fprintf(&b, "\n         %s: %s", f.Name, f.Want)
		} else {
			fmt.Fprintf(&b, "\n         %s: %s -> %s", f.Name, f.Have, f.Want)
		}
	}
	for _, n := range c.Notes {
		fmt.Fprintf(&b, "\n         %s", n)
	}
	return b.String()
}

// ownerKey and owner mark the consumers that Provision makes, so that it never changes another's.
const (
	ownerKey = "owner"
	owner    = "headgate"
)

// Provision makes what the plan needs, changes what differs, and reports every object that it looked at, in order. With
// dry it only reports. It never deletes anything, several processes may run it at once, and a second run changes
// nothing.
//
// What could lose events is not done unless the plan allows it: the change says Refuse and why, the rest is carried out
// all the same, and the error is ErrRefused. Filters that a consumer has beyond those of the plan are kept and noted,
// because another version of the worker may need them.
func Provision(ctx context.Context, js jetstream.JetStream, p Plan, dry bool) ([]Change, error) {
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

type provisioner struct {
	js        jetstream.JetStream
	dry       bool
	allowLoss bool
	changes   []Change
}

func (pr *provisioner) run(ctx context.Context, p Plan) error {
	s := p.Source
	events, err := pr.stream(ctx, p.eventStream())
	if err != nil {
		return err
	}
	p.MaxAge = events.MaxAge // as it is now, also where the plan left it open: the claims outlive the events

	streams := []wantedStream{
		p.deadStream(), p.parkedStream(), p.operatorStream(),
		p.bucket(s.WorkersBucket(), workersTTL, 0, workersMaxBytes),
	}
	states := map[string]bool{}
	for _, w := range p.Workers {
		streams = append(streams, p.bucket(s.ClaimsBucket(w.Name), p.MaxAge+claimsGrace, p.ClaimsMaxBytes, DefaultClaimsMaxBytes))
		for _, state := range w.State {
			states[state] = true
		}
	}
	for _, state := range slices.Sorted(maps.Keys(states)) {
		streams = append(streams, p.bucket(s.StateBucket(state), 0, p.StateMaxBytes, DefaultStateMaxBytes))
	}
	for _, w := range streams {
		if _, err := pr.stream(ctx, w); err != nil {
			return err
		}
	}
	for _, w := range p.Workers {
		for _, c := range []wantedConsumer{w.eventConsumer(s), w.parkedConsumer(s)} {
			if err := pr.consumer(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// refusals is one error for all that was refused.
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

// stream makes or changes one stream and returns its configuration as it is afterwards, or would be.
func (pr *provisioner) stream(ctx context.Context, w wantedStream) (jetstream.StreamConfig, error) {
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
			w.shape(&want)
			change = Change{Object: w.object(), Action: Create, Fields: diff(streamSettings, nil, &want)}
		} else {
			have := info.Config
			want = have
			w.shape(&want)
			change = pr.judgeStream(w, &want, info)
			if change.Action == Refuse {
				want = have
			}
		}
		if !pr.dry && change.Action != Same && change.Action != Refuse {
			err := call(ctx, pr.js, w.name, func(ctx context.Context) error {
				if missing {
					_, err := pr.js.CreateStream(ctx, want)
					return err
				}
				_, err := pr.js.UpdateStream(ctx, want)
				return err
			})
			if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) && try < maxRaces {
				continue // another process was faster: compare with what it made
			}
			if err != nil {
				return jetstream.StreamConfig{}, fmt.Errorf("%s: %w", doing, err)
			}
		}
		pr.changes = append(pr.changes, change)
		return want, nil
	}
}

// maxRaces bounds how often Provision looks again because another process made the same object.
const maxRaces = 5

// judgeStream says what to do about a stream that is there. Subjects that it has beyond the wanted ones are lost to
// their publishers when they are taken away, so that is judged as a loss.
func (pr *provisioner) judgeStream(w wantedStream, want *jetstream.StreamConfig, info *jetstream.StreamInfo) Change {
	have, state := info.Config, info.State
	change := Change{Object: w.object(), Action: Same, Fields: diff(streamSettings, &have, want)}
	if len(change.Fields) == 0 {
		return change
	}
	change.Action = Update

	if have.Retention != want.Retention || have.Storage != want.Storage {
		change.Action = Refuse
		change.Notes = append(change.Notes, fmt.Sprintf(
			"a stream cannot become another kind of stream: copy what is in it, delete it yourself (nats stream rm %s), and provision again", w.name))
		return change
	}
	var losses []string
	if oldest := time.Since(state.FirstTime); want.MaxAge > 0 && state.Msgs > 0 && oldest > want.MaxAge {
		losses = append(losses, fmt.Sprintf("it holds messages of %v: with a max age of %s they would be deleted at once, read or not", oldest.Round(time.Second), show(want.MaxAge)))
	}
	if want.MaxBytes > 0 && state.Bytes > uint64(want.MaxBytes) {
		losses = append(losses, fmt.Sprintf("it holds %v: with max bytes of %v it would refuse every new message", size(state.Bytes), size(want.MaxBytes)))
	}
	if want.Replicas < have.Replicas {
		losses = append(losses, fmt.Sprintf("%d replicas instead of %d: one lost disk more would lose what is stored", want.Replicas, have.Replicas))
	}
	if gone := uncovered(want.Subjects, have.Subjects); len(gone) > 0 {
		losses = append(losses, fmt.Sprintf("it would no longer take %s", strings.Join(gone, " ")))
	}
	pr.weigh(&change, losses)
	return change
}

// weigh refuses a change that loses something, unless that is allowed.
func (pr *provisioner) weigh(change *Change, losses []string) {
	change.Notes = append(change.Notes, losses...)
	if len(losses) > 0 && !pr.allowLoss {
		change.Action = Refuse
		change.Notes = append(change.Notes, "allow the loss to do it all the same")
	}
}

// consumer makes or changes one consumer.
func (pr *provisioner) consumer(ctx context.Context, w wantedConsumer) error {
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
			w.shape(&want)
			w.begin.deliverFrom(&want)
			change = Change{Object: w.object(), Action: Create, Fields: diff(consumerSettings, nil, &want)}
			change.Fields = append(change.Fields, Field{Name: "begin", Want: w.begin.String()})
		} else {
			want = have.CachedInfo().Config
			w.shape(&want)
			if change, err = pr.judgeConsumer(ctx, w, &want, have.CachedInfo()); err != nil {
				return fmt.Errorf("%s: %w", doing, err)
			}
		}
		if !pr.dry && change.Action != Same && change.Action != Refuse {
			err := call(ctx, pr.js, w.stream+"."+w.name, func(ctx context.Context) error {
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

// judgeConsumer says what to do about a consumer that is there, and widens want by the filters that are kept.
func (pr *provisioner) judgeConsumer(ctx context.Context, w wantedConsumer, want *jetstream.ConsumerConfig, info *jetstream.ConsumerInfo) (Change, error) {
	have := info.Config
	change := Change{Object: w.object(), Action: Same}
	planned := want.FilterSubjects
	had := filtersOf(&have)

	extra := uncovered(planned, had)
	if len(extra) > 0 && !pr.allowLoss {
		want.FilterSubjects = widest(slices.Concat(planned, had))
		change.Notes = append(change.Notes, fmt.Sprintf(
			"it keeps %s, which this plan does not handle: another version may, and without it what waits there would never be delivered; allow the loss to take it away", strings.Join(extra, " ")))
	}
	change.Fields = diff(consumerSettings, &have, want)
	if len(change.Fields) == 0 {
		return change, nil
	}
	change.Action = Update

	if have.Metadata[ownerKey] != owner {
		pr.weigh(&change, []string{"it was not made by headgate provision: it may be another service's; give the worker another name"})
	}
	if have.AckPolicy != want.AckPolicy {
		change.Action = Refuse
		change.Notes = append(change.Notes, fmt.Sprintf("the ack policy of a consumer cannot be changed: delete it yourself (nats consumer rm %s %s), and provision again with a begin that misses nothing", w.stream, w.name))
	}
	for i, f := range want.FilterSubjects {
		for _, g := range want.FilterSubjects[i+1:] {
			if overlap(f, g) {
				change.Action = Refuse
				change.Notes = append(change.Notes, fmt.Sprintf("%s and %s overlap, and the server refuses both on one consumer: allow the loss of the one that this plan does not have", f, g))
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
				"%d stored messages match %s; those up to sequence %d are not delivered by this change: headgate replay --worker %s gives them", n, f, info.Delivered.Stream, w.name))
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
	err = call(ctx, pr.js, name, func(ctx context.Context) error {
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
