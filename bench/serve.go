package main

import (
	"context"
	"fmt"
	"time"

	"github.com/headgate/headgate/bench/lab"
	"github.com/headgate/headgate/bench/load"
)

// servePart measures headgate serve, whose server waits for the disk: the most over several numbers of connections, and the
// latencies at ten times the mean of 100,000 events a day. The stream keeps what it has got.
func servePart(ctx context.Context, b *bench) error {
	folder, err := b.lab.Dir("serve")
	if err != nil {
		return err
	}
	var at [3]string
	for i := range at {
		if at[i], err = lab.Address(); err != nil {
			return err
		}
	}
	secret := load.NewSecret()
	signer, err := load.NewSigner(secret, b.size)
	if err != nil {
		return err
	}
	process, err := b.lab.Start("serve", b.programs["headgate"], []string{
		"serve", "--data-dir", folder, "--listen", at[0], "--admin-listen", at[1], "--nats-listen", at[2], "--drain-delay", "0s",
	}, []string{"HEADGATE_SECRET=" + secret})
	if err != nil {
		return err
	}
	if err := process.Await(ctx, lab.Answers("http://"+at[1]+"/readyz")); err != nil {
		return err
	}
	batch, most := new(load.Batch), 2000.0
	run := func(in string, conns int, n float64, drive func([]*load.Conn) load.Result) error {
		all, err := load.Dial(at[0], nil, conns)
		if err != nil {
			return err
		}
		defer load.Close(all)
		signer.Sign(batch, int(n), time.Now())
		result := drive(all)
		if result.Refused() > 0 {
			return fmt.Errorf("serve: answers %v, none to %d: %w\n%s", result.Answers, result.Broken, result.Err, process.Last())
		}
		most = max(most, result.Rate())
		b.add(in, "serve", perSecond, result.Rate())
		b.latencies(in, "serve", result.Latencies)
		return nil
	}
	for round := range b.rounds {
		b.progress("serve, round %d of %d", round+1, b.rounds)
		for _, conns := range []int{1, 16, 64} {
			err := run(fmt.Sprintf("headgate serve, closed loop, %d connections", conns), conns, 3*most*b.slice.Seconds(),
				func(all []*load.Conn) load.Result { return load.Closed(ctx, all, batch, b.slice) })
			if err != nil {
				return err
			}
		}
		const rate = 12 // ten times 100,000 a day
		err := run(fmt.Sprintf("headgate serve, open loop, %d requests/s", rate), 16, 10*rate*b.slice.Seconds(),
			func(all []*load.Conn) load.Result { return load.Open(ctx, all, batch, rate, load.Poisson, 5*b.slice) })
		if err != nil {
			return err
		}
	}
	return b.lab.Stop(process)
}
