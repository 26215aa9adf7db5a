package stream

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// Workers returns the consumers of the workers that are provisioned for a source, sorted by name, without those of other
// services.
func Workers(ctx context.Context, js jetstream.JetStream, s Source) ([]*jetstream.ConsumerInfo, error) {
	st, err := openStream(ctx, js, s.Stream())
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", s.Stream(), err)
	}
	var workers []*jetstream.ConsumerInfo
	err = request(ctx, js, s.Stream(), func(ctx context.Context) error {
		workers = nil
		all := st.ListConsumers(ctx)
		for info := range all.Info() {
			if IsWorkers(info.Config) {
				workers = append(workers, info)
			}
		}
		return all.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("consumers of stream %s: %w", s.Stream(), err)
	}
	slices.SortFunc(workers, func(a, b *jetstream.ConsumerInfo) int { return cmp.Compare(a.Name, b.Name) })
	return workers, nil
}

// Takes reports whether a consumer of this configuration gets the messages of a subject.
func Takes(c jetstream.ConsumerConfig, subject string) bool {
	return slices.ContainsFunc(filtersOf(&c), func(f string) bool { return covers(f, subject) })
}
