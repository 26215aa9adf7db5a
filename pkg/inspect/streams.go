package inspect

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// A StreamCopies is a stream of the account, or the stream of a bucket, with the servers that have it.
type StreamCopies struct {
	Name     string    `json:"name"`
	Subjects []string  `json:"subjects"`
	Messages uint64    `json:"messages"`
	Bytes    uint64    `json:"bytes"`
	Created  time.Time `json:"created"`
	// Leader is the name of the server that leads; "" when none does, and on a server without a cluster.
	Leader string `json:"leader,omitempty"`
	// Followers are the names of the servers with the other copies, and Behind those of them that are away or not up to date.
	Followers []string `json:"followers,omitempty"`
	Behind    []string `json:"behind,omitempty"`
	// Foreign says that the stream is not the source's.
	Foreign bool `json:"foreign,omitempty"`
}

// Copies returns the streams of a source, or all of the account, sorted by name. A stream without a leader is not among them. It needs
// permission for STREAM.LIST.
func Copies(ctx context.Context, js jetstream.JetStream, s stream.Source, foreign bool) ([]StreamCopies, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	owner := NewCollector(js, s)
	var all []StreamCopies
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		c := copiesOf(info)
		if c.Foreign = !owner.owns(c.Name); !c.Foreign || foreign {
			all = append(all, c)
		}
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("streams: %w", err)
	}
	slices.SortFunc(all, func(a, b StreamCopies) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

func copiesOf(info *jetstream.StreamInfo) StreamCopies {
	c := StreamCopies{
		Name: info.Config.Name, Subjects: info.Config.Subjects, Messages: info.State.Msgs, Bytes: info.State.Bytes, Created: info.Created,
	}
	if info.Cluster == nil {
		return c
	}
	c.Leader = info.Cluster.Leader
	for _, r := range info.Cluster.Replicas {
		c.Followers = append(c.Followers, r.Name)
		if r.Offline || !r.Current {
			c.Behind = append(c.Behind, r.Name)
		}
	}
	slices.Sort(c.Followers)
	slices.Sort(c.Behind)
	return c
}
