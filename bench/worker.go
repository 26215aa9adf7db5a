package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/bench/lab"
	"github.com/headgate/headgate/bench/load"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	workerSource = stream.Source("bench")
	concurrency  = 256

	arriveCase = "from HTTP accept to the start of the handler, 1000 requests/s, fsync off"
	startCase  = "start of a new worker, from exec to its first event"
)

func settleCase(nodes int, fsync bool) string {
	return fmt.Sprintf("worker, handler that does nothing, %d at once, from fetch to settled, %s, %s", concurrency, counted(nodes), fsyncName(fsync))
}

func counted(nodes int) string {
	if nodes == 1 {
		return "one server"
	}
	return strconv.Itoa(nodes) + " nodes and copies"
}

// A remembering is what a worker remembers ids by, as the worker's flag and the tables call it.
type remembering struct {
	flag, name, dsn string
	ordered         bool
}

var (
	bareLoop = remembering{flag: "none", name: "bare loop"}
	kvClaims = remembering{flag: "kv", name: "KV claims"}
)

// rememberings are what is compared: with PostgreSQL where it is installed, with or without fsync as NATS.
func (b *bench) rememberings(ctx context.Context, fsync bool) ([]remembering, *lab.Process, error) {
	all := []remembering{bareLoop, kvClaims}
	p, dsn, err := b.lab.Postgres(ctx, fsync)
	if errors.Is(err, lab.ErrNoPostgres) {
		b.progress("without PostgreSQL, which is not installed")
		return all, nil, nil
	}
	return append(all, remembering{flag: "pg", name: "PostgreSQL claims", dsn: dsn}), p, err
}

// workerPart measures how fast events are settled, on one server and on a cluster, and how soon they arrive.
func workerPart(ctx context.Context, b *bench) error {
	for _, where := range []struct {
		nodes int
		fsync bool
	}{{1, false}, {1, true}, {3, true}} {
		if !slices.Contains(b.fsyncs, where.fsync) {
			continue
		}
		if err := b.settle(ctx, where.nodes, where.fsync); err != nil {
			return err
		}
	}
	return b.arrive(ctx)
}

// settle measures how many events a second a worker settles that are stored already.
func (b *bench) settle(ctx context.Context, nodes int, fsync bool) error {
	in := settleCase(nodes, fsync)
	events := b.events
	if fsync { // a few thousand a second
		events /= 4
	}
	b.progress("%s: store %d events", in, events)
	servers, err := b.lab.NATS(ctx, b.programs["nats-server"], nodes, fsync)
	if err != nil {
		return err
	}
	if err := provision(ctx, servers, workerSource); err != nil {
		return err
	}
	if err := b.store(ctx, servers, events, load.Type); err != nil {
		return err
	}
	all, postgres, err := b.rememberings(ctx, fsync)
	if err != nil {
		return err
	}
	for round := range b.rounds {
		b.progress("%s: round %d of %d", in, round+1, b.rounds)
		for _, r := range shuffled(all) {
			w, err := b.worker(ctx, servers, r, load.Type, "")
			if err != nil {
				return err
			}
			if err := b.settleOnce(ctx, in, r.name, w, events); err != nil {
				return err
			}
		}
	}
	if postgres != nil {
		err = b.lab.Stop(postgres)
	}
	return errors.Join(err, servers.Stop())
}

// settleOnce measures a worker that has begun, and ends it.
func (b *bench) settleOnce(ctx context.Context, in, name string, w *worker, events int) error {
	// From when a tenth is settled until nine tenths are: neither the start counts nor the end.
	var settled, until int
	var own, nats time.Duration
	var at, end time.Time
	for settled = 0; until == 0; {
		n, err := w.settled(ctx)
		if err != nil {
			return err
		}
		if settled == 0 && n < events/10 || settled != 0 && n < events/10*9 {
			continue
		}
		ownNow, err1 := lab.CPU(w.process)
		natsNow, err2 := lab.CPU(w.servers.Processes...)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if settled == 0 {
			settled, own, nats, at = n, ownNow, natsNow, time.Now()
			continue
		}
		until, own, nats, end = n, ownNow-own, natsNow-nats, time.Now()
	}
	count := float64(until - settled)
	now, _, err := w.process.Memory()
	if err != nil {
		return err
	}
	b.add(in, name, eventsPerSecond, count/end.Sub(at).Seconds())
	b.add(in, name, cpuOwn, float64(own.Microseconds())/count)
	b.add(in, name, cpuNATS, float64(nats.Microseconds())/count)
	b.add(in, name, memory, float64(now)/(1<<20))
	return w.end(ctx)
}

// arrive measures how long an event is on its way through ingress, server and worker.
func (b *bench) arrive(ctx context.Context) error {
	const rate = 1000
	b.progress("%s", arriveCase)
	servers, err := b.lab.NATS(ctx, b.programs["nats-server"], 1, false)
	if err != nil {
		return err
	}
	v, err := b.variant(ctx, "ingress", servers, func(ctx context.Context, b *bench, v *variant, servers *lab.NATS, secret string) error {
		v.source = workerSource
		if err := provision(ctx, servers, v.source); err != nil {
			return err
		}
		return headgate(nil, "")(ctx, b, v, servers, secret)
	})
	if err != nil {
		return err
	}
	conns, err := load.Dial(v.address, nil, 64)
	if err != nil {
		return err
	}
	defer load.Close(conns)
	dir, err := b.lab.Dir("times")
	if err != nil {
		return err
	}
	batch := new(load.Batch)
	d := 3 * b.slice
	for round := range b.rounds {
		b.progress("%s: round %d of %d", arriveCase, round+1, b.rounds)
		for _, r := range shuffled([]remembering{bareLoop, kvClaims}) {
			if err := empty(ctx, servers, v.source); err != nil {
				return err
			}
			out := filepath.Join(dir, strconv.Itoa(round)+r.flag)
			w, err := b.worker(ctx, servers, r, load.Type, out)
			if err != nil {
				return err
			}
			v.signer.Sign(batch, int(1.3*rate*d.Seconds()), time.Now())
			result := load.Open(ctx, conns, batch, rate, load.Poisson, d)
			if result.Refused() > 0 {
				return fmt.Errorf("answers %v, none to %d: %w", result.Answers, result.Broken, result.Err)
			}
			for n := 0; n < result.Accepted(); {
				if n, err = w.settled(ctx); err != nil {
					return err
				}
			}
			if err := w.end(ctx); err != nil {
				return err
			}
			text, err := os.ReadFile(out)
			if err != nil {
				return err
			}
			var times []time.Duration
			if err := json.Unmarshal(text, &times); err != nil {
				return err
			}
			slices.Sort(times)
			b.latencies(arriveCase, r.name, times)
		}
	}
	if err := b.lab.Stop(v.process); err != nil {
		return err
	}
	return servers.Stop()
}

// startPart measures how long a worker takes to begin when there is a lot stored: one that takes it from the beginning,
// and one for which only the last event is.
func startPart(ctx context.Context, b *bench) error {
	b.progress("start: store %d events", b.ids)
	servers, err := b.lab.NATS(ctx, b.programs["nats-server"], 1, false)
	if err != nil {
		return err
	}
	if err := provision(ctx, servers, workerSource); err != nil {
		return err
	}
	const rare = "bills.write.successful"
	if err := errors.Join(b.store(ctx, servers, b.ids-1, load.Type), b.store(ctx, servers, 1, rare)); err != nil {
		return err
	}
	in := startCase
	if b.ids != 1_000_000 {
		in = fmt.Sprintf("%s, %d stored", startCase, b.ids)
	}
	for round := range b.rounds {
		b.progress("start: round %d of %d", round+1, b.rounds)
		for _, t := range []struct{ name, typ string }{{"takes all from the first on", load.Type}, {"takes the last event only", rare}} {
			began := time.Now()
			w, err := b.worker(ctx, servers, kvClaims, t.typ, "")
			if err != nil {
				return err
			}
			for n := 0; n == 0; {
				if n, err = w.settled(ctx); err != nil {
					return err
				}
			}
			b.add(in, t.name, "start s", time.Since(began).Seconds())
			if err := w.end(ctx); err != nil {
				return err
			}
		}
	}
	return servers.Stop()
}

// worker is a worker that runs.
type worker struct {
	name     string
	process  *lab.Process
	servers  *lab.NATS
	lab      *lab.Lab
	consumer jetstream.Consumer
}

// worker provisions a new worker that takes all stored events of a type, and starts it.
func (b *bench) worker(ctx context.Context, servers *lab.NATS, r remembering, typ, out string) (*worker, error) {
	b.workers++
	name := r.flag + "-" + strconv.Itoa(b.workers)
	spec := stream.WorkerSpec{Name: name, Types: []codat.Pattern{codat.Pattern(typ)}, Begin: stream.BeginAll(), AckWait: time.Minute}
	args := []string{"--name", name, "--type", typ, "--claims", r.flag, "--out", out, "--dsn", r.dsn}
	if r.ordered {
		spec.MaxAckPending = 1
		args = append(args, "--ordered")
	}
	if err := provision(ctx, servers, workerSource, spec); err != nil {
		return nil, err
	}
	return b.startWorker(ctx, servers, name, "worker", args...)
}

// startWorker starts the program of a worker that is provisioned.
func (b *bench) startWorker(ctx context.Context, servers *lab.NATS, name, program string, args ...string) (*worker, error) {
	w := &worker{name: name, servers: servers, lab: b.lab}
	admin, err := lab.Address()
	if err != nil {
		return nil, err
	}
	w.process, err = b.lab.Start(w.name, b.programs[program], append(args,
		"--concurrency", strconv.Itoa(concurrency), "--log-level", "warn",
		"--source", string(workerSource), "--nats-url", servers.URL, "--admin-listen", admin,
	), nil)
	if err != nil {
		return nil, err
	}
	if err := w.process.Await(ctx, lab.Answers("http://"+admin+"/readyz")); err != nil {
		return nil, err
	}
	w.consumer, err = servers.JS.Consumer(ctx, workerSource.Stream(), w.name)
	return w, err
}

// settled is how many events are settled. It takes a few milliseconds, so that asking in a loop costs little.
func (w *worker) settled(ctx context.Context) (int, error) {
	select {
	case <-time.After(5 * time.Millisecond):
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	if err := w.process.Alive(); err != nil {
		return 0, err
	}
	info, err := w.consumer.Info(ctx)
	if err != nil {
		return 0, err
	}
	return int(info.Delivered.Consumer) - info.NumAckPending - info.NumRedelivered, nil
}

// end stops the worker and removes what it has left.
func (w *worker) end(ctx context.Context) error {
	err := w.lab.Stop(w.process)
	for _, s := range []string{workerSource.Stream(), workerSource.ParkedStream()} {
		err = errors.Join(err, w.servers.JS.DeleteConsumer(ctx, s, w.name))
	}
	return errors.Join(err, w.servers.JS.DeleteKeyValue(ctx, workerSource.ClaimsBucket(w.name)))
}

// store stores n events of a type as the ingress does.
func (b *bench) store(ctx context.Context, servers *lab.NATS, n int, typ string) error {
	publisher, err := stream.NewPublisher(servers.NC, stream.PublisherOptions{})
	if err != nil {
		return err
	}
	defer publisher.Close()
	signer, err := load.NewSigner(load.NewSecret(), b.size)
	if err != nil {
		return err
	}
	const many = 10_000
	batch := new(load.Batch)
	for first := 0; first < n; first += many {
		signer.Sign(batch, min(many, n-first), time.Now())
		var next atomic.Int64
		var wg sync.WaitGroup
		var failed atomic.Pointer[error]
		for range 512 {
			wg.Go(func() {
				for failed.Load() == nil {
					i := int(next.Add(1)) - 1
					if i >= batch.Len() {
						return
					}
					if err := publish(ctx, publisher, batch.Request(i), typ); err != nil {
						failed.Store(&err)
					}
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			return fmt.Errorf("store events: %w", *err)
		}
	}
	return nil
}

func publish(ctx context.Context, p *stream.Publisher, request []byte, typ string) error {
	h, body, err := load.Read(request)
	if err != nil {
		return err
	}
	head, err := codat.Read(body)
	if err != nil {
		return err
	}
	head.Type = typ
	msg, err := workerSource.Message(stream.Stored{
		ID: h.Get(stream.HeaderWebhookID), Timestamp: h.Get(stream.HeaderWebhookTimestamp), Signature: h.Get(stream.HeaderWebhookSignature),
		Head: head, Received: time.Now(), ContentType: h.Get("Content-Type"),
	}, body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = p.Publish(ctx, msg)
	return err
}
