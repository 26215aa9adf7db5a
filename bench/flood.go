package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate/bench/lab"
	"github.com/headgate/headgate/bench/load"
	"github.com/headgate/headgate/test/flood"
)

// floodRates are the new connections a second of a flood; 0 is as many as the machine takes.
var floodRates = []float64{1000, 0}

func floodCase(rate float64) string {
	name := fmt.Sprintf("%.0f new connections a second", rate)
	if rate == 0 {
		name = "connections at the machine's limit"
	}
	return "200 real requests/s of 600 bytes, half of them over new connections, beside clients without a key that keep 3,000 open, with " +
		name + "; fsync off"
}

// The names of a flood's figures.
const (
	floodPerSecond = "flood/s" // connections that have sent what they send at once
	peakMemory     = "peak MiB"
	limitMemory    = "limit MiB"
	logPerSecond   = "log kB/s"
)

// floods measures real requests beside each kind of flood, with an ingress of its own, in the memory of its manifest.
func (b *bench) floods(ctx context.Context, servers *lab.NATS) error {
	limit, err := flood.MemoryLimit("..")
	if err != nil {
		return err
	}
	kinds := append([]flood.Kind{{Name: "alone"}}, flood.Kinds()...)
	for round := range b.rounds {
		for _, rate := range floodRates {
			for _, kind := range kinds {
				b.progress("floods: %s, %.0f/s, round %d of %d", kind.Name, rate, round+1, b.rounds)
				if err := b.flood(ctx, servers, kind, rate, limit); err != nil {
					return fmt.Errorf("%s: %w", kind.Name, err)
				}
			}
		}
	}
	return nil
}

// flood measures one flood.
func (b *bench) flood(ctx context.Context, servers *lab.NATS, kind flood.Kind, rate float64, limit int64) (err error) {
	var env []string
	group, err := flood.NewGroup(limit)
	if err != nil {
		b.progress("without a cgroup: %v", err)
		env = []string{fmt.Sprintf("GOMEMLIMIT=%d", limit/10*9)} // as the ingress takes it from a cgroup
	} else {
		defer func() { err = errors.Join(err, group.Close()) }()
	}
	v, err := b.variant(ctx, "flooded", servers, func(ctx context.Context, b *bench, v *variant, servers *lab.NATS, secret string) error {
		if group != nil {
			v.within = group.Command
		}
		return headgate(env, "")(ctx, b, v, servers, secret)
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.lab.Stop(v.process)) }()
	if err := empty(ctx, servers, v.source); err != nil {
		return err
	}
	const most = 3000
	var f *flood.Flood
	if kind.Name != "alone" {
		f = flood.Start(kind, flood.Options{Address: v.address, Conns: most, Rate: rate})
		defer f.Stop()
		for f.Begun() < most { // until it has filled the connections
			if err := errors.Join(context.Cause(ctx), v.process.Alive()); err != nil {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return b.measureFlood(ctx, servers, v, f, floodFigures{floodCase(rate), kind.Name, limit})
}

type floodFigures struct {
	in, name string
	limit    int64
}

// measureFlood sends real requests, over connections that stay open and over new ones, and notes what became of them.
func (b *bench) measureFlood(ctx context.Context, servers *lab.NATS, v *variant, f *flood.Flood, of floodFigures) error {
	const real, connections = 200, 32
	d := 4 * b.slice
	kept, err := load.Dial(v.address, nil, connections)
	if err != nil {
		return err
	}
	defer load.Close(kept)
	fresh, err := load.Dial(v.address, nil, connections)
	if err != nil {
		return err
	}
	load.Once(fresh)
	defer load.Close(fresh)
	var batches [2]load.Batch
	for i := range batches {
		v.signer.Sign(&batches[i], int(real*d.Seconds())+100, time.Now())
	}
	if err := v.process.Forget(); err != nil {
		return err
	}
	begun := int64(0)
	if f != nil {
		begun = f.Begun()
	}
	var other load.Result
	s, err := b.cost(v, servers, func() (r load.Result) {
		var both sync.WaitGroup
		both.Go(func() { other = load.Open(ctx, fresh, &batches[1], real/2, load.Poisson, d) })
		r = load.Open(ctx, kept, &batches[0], real/2, load.Poisson, d)
		both.Wait()
		return r
	})
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = v.process.Alive()
	}
	if err != nil {
		return err
	}
	took := max(s.Took, other.Took)
	printed, err := v.process.Printed()
	if err != nil {
		return err
	}
	latencies := append(slices.Clone(s.Latencies), other.Latencies...)
	slices.Sort(latencies)
	b.add(of.in, of.name, perSecond, float64(s.Accepted()+other.Accepted())/took.Seconds())
	if f != nil {
		b.add(of.in, of.name, floodPerSecond, float64(f.Begun()-begun)/took.Seconds())
	}
	b.add(of.in, of.name, refused, float64(s.Refused()+other.Refused()))
	b.latencies(of.in, of.name, latencies)
	b.add(of.in, of.name, peakMemory, peak(v))
	b.add(of.in, of.name, limitMemory, float64(of.limit)/(1<<20))
	b.add(of.in, of.name, logPerSecond, float64(printed)/1000/took.Seconds())
	b.add(of.in, of.name, "CPUs of the ingress", s.own.Seconds()/took.Seconds())
	b.add(of.in, of.name, others, s.others.Seconds()/took.Seconds())
	return nil
}

// worstFlood returns the largest of a figure over all floods and rates.
func (r *report) worstFlood(name string) float64 {
	var all []float64
	for _, f := range r.Figures {
		for _, rate := range floodRates {
			if f.Case == floodCase(rate) && f.Variant != "alone" && f.Name == name {
				all = append(all, f.Rounds...)
			}
		}
	}
	if len(all) == 0 {
		return math.NaN()
	}
	return slices.Max(all)
}
