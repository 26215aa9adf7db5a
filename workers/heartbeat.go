package workers

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/inspect"
)

// heartbeatInterval is the time between two writes of an instance's entry, which expires after a minute.
const heartbeatInterval = 20 * time.Second

// heartbeat writes the instance's entry into the workers' bucket and measures the worker's shares until ctx ends, and then
// deletes the entry. The entry is for people: when it cannot be written, the worker goes on.
func (r *runner) heartbeat(ctx context.Context, js jetstream.JetStream) {
	tick := time.NewTicker(heartbeatInterval)
	defer tick.Stop()
	for {
		if err := r.writeInstance(ctx, js); err != nil && ctx.Err() == nil {
			r.log.Debug("instance entry not written", zap.Error(err))
		}
		r.shares.measure(ctx)
		select {
		case <-ctx.Done():
			del := nats.NewMsg(r.instanceSubject())
			del.Header.Set("KV-Operation", "DEL")
			if err := js.Conn().PublishMsg(del); err != nil {
				r.log.Debug("instance entry not deleted; it expires in a minute", zap.Error(err))
			}
			return
		case <-tick.C:
		}
	}
}

// instanceSubject is the subject of the instance's key in the workers' bucket.
func (r *runner) instanceSubject() string {
	return "$KV." + r.source.WorkersBucket() + "." + r.worker.Name + "." + r.instance
}

func (r *runner) writeInstance(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	i := inspect.Instance{
		Worker: r.worker.Name, Instance: r.instance, Host: r.host, Version: r.version,
		Paused: r.breaker.pausedSince(), Seen: r.now().UTC(),
	}
	if err := r.checkClaims(ctx); err != nil {
		i.CannotClaim = lastError(err)
	}
	entry, err := json.Marshal(i)
	if err != nil {
		return err
	}
	_, err = js.Publish(ctx, r.instanceSubject(), entry)
	return err
}
