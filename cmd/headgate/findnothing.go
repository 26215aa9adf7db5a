package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/signature"
)

// deliveryTime is how long Codat tries to deliver an event, pauses that are long included.
const deliveryTime = 36 * time.Hour

// notFound returns an error that says why an id may not be here: what can be told, and where the rest is.
func (c *findCmd) notFound(ctx context.Context, t *terminal, nc *client) error {
	st, err := nc.Stream(ctx, nc.source.Stream())
	if err != nil {
		return err
	}
	info := st.CachedInfo()
	since := "which holds no event"
	if first := info.State.FirstTime; !first.IsZero() {
		since = "whose oldest message is of " + t.time(first)
	}
	why := []string{fmt.Sprintf("nothing has the id %q in %s, %s", c.ID, nc.source.Stream(), since)}
	if made, ok := signature.IDTime(c.ID); ok && made.Before(t.now().Add(time.Hour)) {
		why = append(why, notStored(t, made, info)...)
	} else {
		why = append(why, "it was refused, is older, or belongs to another --source; the ingress's log has a line with claimed_id for a request that it refused")
	}
	switch erased, err := operator.LastErasure(ctx, nc, nc.source, c.ID); {
	case err != nil:
		why = append(why, fmt.Sprintf("whether it was erased is not known: %v", err))
	case erased.OfID:
		why = append(why, fmt.Sprintf("its company was erased at %s by %s@%s", t.time(erased.At), erased.User, erased.Host))
	case !erased.At.IsZero():
		why = append(why, fmt.Sprintf("it may have been a company's that was erased: the last time at %s", t.time(erased.At)))
	}
	return fmt.Errorf("%s", strings.Join(why, "; "))
}

// notStored says why a message that Codat made at a time may not be stored.
func notStored(t *terminal, made time.Time, info *jetstream.StreamInfo) []string {
	why := []string{"Codat made it at " + t.time(made)}
	now := t.now()
	switch kept := info.Config.MaxAge; {
	case kept > 0 && made.Before(now.Add(-kept-deliveryTime)):
		return append(why, fmt.Sprintf("it has expired: the stream keeps events for %s", kept))
	case kept > 0 && made.Before(now.Add(-kept)):
		why = append(why, fmt.Sprintf("it may have expired: the stream keeps events for %s", kept))
	case made.After(now.Add(-deliveryTime)):
		why = append(why, "it may be on its way: Codat tries for 28 hours")
	}
	return append(why,
		"or it belongs to another --source, or was refused: the ingress's log has a line with claimed_id",
		fmt.Sprintf("how many requests were refused in that hour, and why, Prometheus says: sum by (reason) (increase(headgate_ingress_refusals_total[1h] @ %d))", made.Add(time.Hour).Unix()))
}
