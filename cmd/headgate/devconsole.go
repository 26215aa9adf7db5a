package main

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/console"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream/embedded"
)

// devIndexBytes bounds the memory of the index, as headgate watch keeps it.
const devIndexBytes = 32 << 20

// startConsole serves the console on the admin listener, for the local user. stop ends it.
func (d *devCmd) startConsole(server *embedded.Server, p *process.Process, admin *process.Admin) (stop func(), err error) {
	nc, err := server.Conn()
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	o, err := operator.New(js, d.Source)
	if err != nil {
		nc.Close()
		return nil, err
	}
	c, err := console.New(console.Options{
		Keys: func() []signature.Key {
			keys, err := d.keys()
			if err != nil {
				p.Log.Warn("the signing secrets cannot be read", zap.Error(err))
			}
			return keys
		},
		JS: js, Source: d.Source, Access: console.Local{}, Log: p.Log, Version: process.Version(), Operator: o,
		Processes: func(context.Context) []console.Process { return []console.Process{ownMetrics(p, admin.Addr())} },
	})
	if err != nil {
		o.Close()
		nc.Close()
		return nil, err
	}
	admin.Handle(c)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	// Without it, what has an id is found by reading the stream.
	index := inspect.NewIndex(js, d.Source, devIndexBytes)
	running.Go(func() { index.Run(ctx, func(error) {}) }) // it tries again
	running.Go(func() { _ = index.Answer(ctx, nc) })      // without an answer the stream is read
	return func() {
		cancel()
		running.Wait()
		o.Close()
		nc.Close()
	}, nil
}

// ownMetrics are the metrics of this process.
func ownMetrics(p *process.Process, address string) console.Process {
	families, err := p.Gatherer.Gather()
	all := map[string]*dto.MetricFamily{}
	for _, f := range families {
		all[f.GetName()] = f
	}
	return console.Process{Address: address, Err: err, Families: all}
}
