package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate/bench/load"
)

// forgerySizes are the sizes of the real requests' bodies. Under fifty keys the verification of the smaller ones is cheap.
// That of the larger ones needs a slot for small bodies.
var forgerySizes = []int{600, 4096}

func forgeryCase(size int) string {
	return fmt.Sprintf("200 real requests/s of %d bytes, signed with 50 keys in turn, alone and beside forgeries of 1 MiB at the machine's limit; fsync off", size)
}

// forgeryPart floods an ingress that has fifty keys with forgeries of the largest size, over connections from other
// addresses, while real requests arrive under each of the keys in turn. Then it floods one with what is no forgery.
func forgeryPart(ctx context.Context, b *bench) error {
	const (
		keys   = 50
		real   = 200
		large  = 1 << 20
		floods = 32
	)
	b.progress("forgeries")
	servers, err := b.lab.NATS(ctx, b.programs["nats-server"], 1, false)
	if err != nil {
		return err
	}
	dir, err := b.lab.Dir("keys")
	if err != nil {
		return err
	}
	var secrets []string
	for range keys {
		secrets = append(secrets, load.NewSecret())
	}
	file := filepath.Join(dir, "secrets")
	if err := os.WriteFile(file, []byte(strings.Join(secrets[1:], "\n")), 0o600); err != nil {
		return err
	}
	v, err := b.variant(ctx, "ingress", servers, headgate([]string{"HEADGATE_SECRET=" + secrets[0], "HEADGATE_SECRET_FILE=" + file}, ""))
	if err != nil {
		return err
	}
	conns, err := load.Dial(v.address, nil, 32)
	if err != nil {
		return err
	}
	defer load.Close(conns)
	var strangers []*load.Conn
	for i := range floods {
		one, err := load.Dial(v.address, net.IPv4(127, 0, 1, byte(1+i)), 1)
		if err != nil {
			return err
		}
		strangers = append(strangers, one...)
	}
	defer load.Close(strangers)
	forger, err := load.NewSigner(load.NewSecret(), large)
	if err != nil {
		return err
	}
	batch, forged := new(load.Batch), new(load.Batch)
	forger.Sign(forged, floods, time.Now())
	var signers []*load.Signer
	for _, size := range forgerySizes {
		one, err := load.NewSigner(secrets[0], size, secrets[1:]...)
		if err != nil {
			return err
		}
		signers = append(signers, one)
	}

	d := 4 * b.slice
	for round := range b.rounds + 1 {
		for i, size := range forgerySizes {
			for _, flood := range []bool{false, true} {
				in, name := forgeryCase(size), "alone"
				if flood {
					name = "with forgeries"
				}
				b.progress("forgeries: real ones of %d bytes %s, round %d of %d", size, name, round, b.rounds)
				if err := empty(ctx, servers, v.source); err != nil {
					return err
				}
				signers[i].Sign(batch, int(real*1.5*d.Seconds())+100, time.Now())
				var fakes load.Result
				s, err := b.cost(v, servers, func() (r load.Result) {
					var both sync.WaitGroup
					if flood {
						both.Go(func() { fakes = load.Repeat(ctx, strangers, forged, d) })
					}
					r = load.Open(ctx, conns, batch, real, load.Poisson, d)
					both.Wait()
					return r
				})
				switch {
				case err != nil:
					return err
				case ctx.Err() != nil:
					return context.Cause(ctx)
				case fakes.Accepted() > 0:
					return fmt.Errorf("%d forgeries were accepted", fakes.Accepted())
				case round == 0: // the first round warms up
					continue
				}
				b.add(in, name, perSecond, s.Rate())
				b.latencies(in, name, s.Latencies)
				b.add(in, name, refused, float64(s.Refused()))
				b.add(in, name, "CPUs of the ingress", s.own.Seconds()/s.Took.Seconds())
				b.add(in, name, "peak MiB", peak(v))
				b.add(in, name, others, s.others.Seconds()/s.Took.Seconds())
				if flood {
					b.forgeries(in, s, fakes)
				}
			}
		}
	}
	if err := b.lab.Stop(v.process); err != nil {
		return err
	}
	if err := b.floods(ctx, servers); err != nil {
		return err
	}
	return servers.Stop()
}

// forgeries adds what became of the forgeries, and what they cost: what the ingress computed more than without them.
func (b *bench) forgeries(in string, s sample, fakes load.Result) {
	const name = "with forgeries"
	took := s.Took.Seconds()
	alone := b.find(in, "alone", "CPUs of the ingress")
	theirs := max(0, s.own.Seconds()/took-alone.Rounds[len(alone.Rounds)-1])
	answered := 0
	for status, n := range fakes.Answers {
		if status/100 == 4 {
			answered += n
		}
	}
	b.add(in, name, "forgeries/s", float64(answered)/fakes.Took.Seconds())
	b.add(in, name, "their 503/s", float64(fakes.Answers[503])/fakes.Took.Seconds())
	b.add(in, name, "their broken/s", float64(fakes.Broken)/fakes.Took.Seconds())
	b.add(in, name, "their CPU %", 100*theirs*took/s.own.Seconds())
	b.add(in, name, "of the machine %", 100*theirs/float64(b.CPUs))
}

func peak(v *variant) float64 {
	_, most, err := v.process.Memory()
	if err != nil {
		return 0
	}
	return float64(most) / (1 << 20)
}
