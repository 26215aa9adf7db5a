package audit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

// findWorkers returns the workers to audit, sorted, and an exception for each consumer that a worker should have and has not:
// a worker is one that has a bucket of claims or a consumer on the events. It looks twice before it reports one, because
// provisioning makes the bucket first.
func (a *Audit) findWorkers(ctx context.Context) (names []string, missing []Exception, err error) {
	if names, missing, err = a.workers(ctx); err != nil || len(missing) == 0 {
		return names, missing, err
	}
	if err := a.settle(ctx); err != nil {
		return nil, nil, err
	}
	return a.workers(ctx)
}

func (a *Audit) workers(ctx context.Context) (names []string, missing []Exception, err error) {
	provisioned, err := stream.Workers(ctx, a.JS, a.Source)
	if err != nil {
		return nil, nil, err
	}
	consumers := map[string][]string{} // by stream
	for _, w := range provisioned {
		consumers[a.Source.Stream()] = append(consumers[a.Source.Stream()], w.Name)
	}
	if consumers[a.Source.ParkedStream()], err = a.consumerNames(ctx, a.Source.ParkedStream()); err != nil {
		return nil, nil, err
	}
	all, err := a.claimants(ctx)
	if err != nil {
		return nil, nil, err
	}
	all = append(all, consumers[a.Source.Stream()]...)
	slices.Sort(all)
	all = slices.Compact(all)
	for _, w := range a.Workers {
		if !slices.Contains(all, w) {
			return nil, nil, fmt.Errorf("no worker %q is provisioned on %s; provisioned workers: %s", w, a.Source.Stream(), cmp.Or(strings.Join(all, ", "), "none"))
		}
	}
	for _, w := range all {
		if len(a.Workers) > 0 && !slices.Contains(a.Workers, w) {
			continue
		}
		for _, name := range []string{a.Source.Stream(), a.Source.ParkedStream()} {
			if !slices.Contains(consumers[name], w) {
				missing = append(missing, Exception{Kind: NoConsumer, Worker: w, Stream: name, Detail: fmt.Sprintf(
					"the worker was provisioned and has no consumer on %s, so nothing there is delivered to it, and nothing is known of its events: run headgate provision, which skips none; if the worker was removed for good, remove its bucket %s",
					name, a.Source.ClaimsBucket(w))})
			}
		}
		if slices.Contains(consumers[a.Source.Stream()], w) {
			names = append(names, w)
		}
	}
	return names, missing, nil
}

// claimants returns the workers that have a bucket of claims.
func (a *Audit) claimants(ctx context.Context) ([]string, error) {
	streams, err := inspect.StreamNames(ctx, a.JS, a.Source)
	if err != nil {
		return nil, err
	}
	var workers []string
	for _, name := range streams {
		if w, ok := strings.CutPrefix(name, bucketPrefix+a.Source.ClaimsBucket("")); ok {
			workers = append(workers, w)
		}
	}
	return workers, nil
}

// consumerNames returns the names of the consumers of a stream.
func (a *Audit) consumerNames(ctx context.Context, name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var all []string
	st, err := a.JS.Stream(ctx, name)
	if err == nil {
		names := st.ConsumerNames(ctx)
		for n := range names.Name() {
			all = append(all, n)
		}
		err = names.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("consumers of stream %s: %w", name, err)
	}
	return all, nil
}
