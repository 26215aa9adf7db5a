package main

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	dto "github.com/prometheus/client_model/go"

	"github.com/headgate/headgate/pkg/console"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream/embedded"
)

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
