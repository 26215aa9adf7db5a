package inspect

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// An Instance is one running process of a worker, as the process writes it into the source's workers bucket under the
// key <worker>.<instance>. The entry expires a minute after it was written last.
type Instance struct {
	Worker   string    `json:"worker"`
	Instance string    `json:"instance"`
	Host     string    `json:"host"`
	Version  string    `json:"version"`
	Paused   time.Time `json:"paused,omitzero"` // when its breaker opened; zero while the breaker is closed
	// CannotClaim is the error with which its claims cannot be read or taken, so that no handler runs; "" while they can.
	CannotClaim string    `json:"cannot_claim,omitempty"`
	Seen        time.Time `json:"seen"`
}

// Instances returns the running instances of all workers of a source, sorted by worker and instance. An instance that
// crashed is returned for up to a minute more. It needs permission for STREAM.INFO and DIRECT.GET on the bucket's stream.
func Instances(ctx context.Context, js jetstream.JetStream, s stream.Source) ([]Instance, error) {
	info, err := streamInfo(ctx, js, bucketStream(s.WorkersBucket()), instanceSubject(s, ">"))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = jetstream.ErrBucketNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", s.WorkersBucket(), err)
	}
	return readInstances(ctx, js, s, info, requestTimeout)
}

// readInstances reads the entries of the workers bucket that its stream counts in info, each within timeout.
func readInstances(ctx context.Context, js jetstream.JetStream, s stream.Source, info *jetstream.StreamInfo, timeout time.Duration) ([]Instance, error) {
	var all []Instance
	for subject := range info.State.Subjects {
		asking, cancel := context.WithTimeout(ctx, timeout)
		i, err := readInstance(asking, js, bucketStream(s.WorkersBucket()), subject)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("bucket %s: %w", s.WorkersBucket(), err)
		}
		if i.Worker != "" { // empty when the process has ended since
			all = append(all, i)
		}
	}
	slices.SortFunc(all, func(a, b Instance) int {
		return cmp.Or(strings.Compare(a.Worker, b.Worker), strings.Compare(a.Instance, b.Instance))
	})
	return all, nil
}

func readInstance(ctx context.Context, js jetstream.JetStream, bucket, subject string) (i Instance, err error) {
	m, err := js.Conn().RequestWithContext(ctx, "$JS.API.DIRECT.GET."+bucket+"."+subject, nil)
	if err != nil || len(m.Data) == 0 {
		return i, err
	}
	if err := json.Unmarshal(m.Data, &i); err != nil {
		return i, fmt.Errorf("entry %s: %w", subject, err)
	}
	return i, nil
}

// instanceSubject is the subject of a key of the workers bucket.
func instanceSubject(s stream.Source, key string) string {
	return "$KV." + s.WorkersBucket() + "." + key
}

// bucketStream is the stream that holds a KV bucket.
func bucketStream(bucket string) string { return "KV_" + bucket }
