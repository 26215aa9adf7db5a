package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/headgate/headgate/bench/load"
)

const (
	// profileFile is what the compiler reads when it builds the ingress (go.dev/doc/pgo).
	profileFile   = "../cmd/ingress/default.pgo"
	profileRounds = 8
)

// profilePart finds out where the time of an ingress under load goes, for those who build it from now on.
func profilePart(ctx context.Context, b *bench) error {
	program, err := b.lab.Build(ctx, ".", "profiled", "./profiled")
	if err != nil {
		return err
	}
	dir, err := b.lab.Dir("profile")
	if err != nil {
		return err
	}
	servers, err := b.lab.NATS(ctx, b.programs["nats-server"], 1, false)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "cpu.pprof")
	v, err := b.variant(ctx, "profiled", servers, headgate([]string{"PROFILE=" + file}, program))
	if err != nil {
		return err
	}
	conns, err := load.Dial(v.address, nil, 256)
	if err != nil {
		return err
	}
	defer load.Close(conns)
	batch := new(load.Batch)
	for round := range profileRounds {
		b.progress("profile, round %d of %d", round+1, profileRounds)
		for _, n := range []int{64, 256} {
			if _, err := b.closed(ctx, "", v, servers, batch, conns[:n]); err != nil {
				return err
			}
		}
	}
	if err := b.lab.Stop(v.process); err != nil {
		return err
	}
	profile, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(profileFile, profile, 0o644); err != nil {
		return err
	}
	b.progress("wrote %s", profileFile)
	return servers.Stop()
}
