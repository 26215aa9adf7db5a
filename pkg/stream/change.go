package stream

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/nats-io/nats.go/jetstream"
)

// Action is what Provision does with an object.
type Action string

// The actions.
const (
	Create Action = "create" // it did not exist
	Update Action = "update" // it differed
	Same   Action = "same"   // nothing to do
	Refuse Action = "refuse" // it differs and is left as it is; the notes say why
)

// Change is what Provision did, or in a dry run would do, about one object.
type Change struct {
	Object string // for example "stream CODAT" or "consumer connections on CODAT"
	Action Action
	Fields []Field  // the settings that differ; all of them for a new object
	Notes  []string // for the operator
}

// Field is one setting of an object.
type Field struct {
	Name string
	Have string // "" for a new object
	Want string
}

// String is the change as text: a line for the object, one for each field and one for each note.
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

// A setting is a named part of a configuration.
type setting[C any] struct {
	name string
	of   func(*C) any
}

// diff returns the settings in which have and want differ, and all of want when have is nil.
func diff[C any](settings []setting[C], have, want *C) []Field {
	var fields []Field
	for _, s := range settings {
		f := Field{Name: s.name, Want: format(s.of(want))}
		if have != nil {
			f.Have = format(s.of(have))
		}
		if f.Have != f.Want {
			fields = append(fields, f)
		}
	}
	return fields
}

var streamSettings = []setting[jetstream.StreamConfig]{
	{"subjects", func(c *jetstream.StreamConfig) any { return c.Subjects }},
	{"storage", func(c *jetstream.StreamConfig) any { return c.Storage }},
	{"retention", func(c *jetstream.StreamConfig) any { return c.Retention }},
	{"discard", func(c *jetstream.StreamConfig) any { return c.Discard }},
	{"discard new per subject", func(c *jetstream.StreamConfig) any { return c.DiscardNewPerSubject }},
	{"max age", func(c *jetstream.StreamConfig) any { return c.MaxAge }},
	{"duplicate window", func(c *jetstream.StreamConfig) any { return c.Duplicates }},
	{"max bytes", func(c *jetstream.StreamConfig) any { return size(c.MaxBytes) }},
	{"max messages", func(c *jetstream.StreamConfig) any { return c.MaxMsgs }},
	{"max messages per subject", func(c *jetstream.StreamConfig) any { return c.MaxMsgsPerSubject }},
	{"compression", func(c *jetstream.StreamConfig) any { return c.Compression }},
	{"replicas", func(c *jetstream.StreamConfig) any { return c.Replicas }},
	{"direct get", func(c *jetstream.StreamConfig) any { return c.AllowDirect }},
	{"rollup", func(c *jetstream.StreamConfig) any { return c.AllowRollup }},
	{"deny delete", func(c *jetstream.StreamConfig) any { return c.DenyDelete }},
	{"no ack", func(c *jetstream.StreamConfig) any { return c.NoAck }},
}

var consumerSettings = []setting[jetstream.ConsumerConfig]{
	{"filters", func(c *jetstream.ConsumerConfig) any { return filtersOf(c) }},
	{"ack policy", func(c *jetstream.ConsumerConfig) any { return c.AckPolicy }},
	{"ack wait", func(c *jetstream.ConsumerConfig) any { return c.AckWait }},
	{"max deliver", func(c *jetstream.ConsumerConfig) any { return c.MaxDeliver }},
	{"backoff", func(c *jetstream.ConsumerConfig) any { return fmt.Sprint(c.BackOff) }},
	{"max ack pending", func(c *jetstream.ConsumerConfig) any { return c.MaxAckPending }},
	{"max waiting", func(c *jetstream.ConsumerConfig) any { return c.MaxWaiting }},
	{"inactive threshold", func(c *jetstream.ConsumerConfig) any { return c.InactiveThreshold }},
	{"headers only", func(c *jetstream.ConsumerConfig) any { return c.HeadersOnly }},
	{"owner", func(c *jetstream.ConsumerConfig) any { return c.Metadata[ownerKey] }},
}

// size is a number of bytes that is printed in binary units.
type size int64

func (b size) String() string { return units.BytesSize(float64(b)) }

// format formats a setting: lists are sorted, whole days are days.
func format(v any) string {
	switch v := v.(type) {
	case []string:
		v = slices.Clone(v)
		slices.Sort(v)
		return strings.Join(v, " ")
	case time.Duration:
		if v > 0 && v%(24*time.Hour) == 0 {
			return fmt.Sprintf("%dd", v/(24*time.Hour))
		}
		return v.String()
	case string:
		return cmp.Or(v, "none")
	}
	return fmt.Sprint(v)
}
