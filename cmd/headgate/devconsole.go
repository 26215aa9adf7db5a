package main

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/console"
	"github.com/headgate/headgate/pkg/doctor"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
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
	endpoints, closeCodat, err := d.endpoints()
	if err != nil {
		o.Close()
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
		JS: js, Source: d.Source, Access: console.Local{}, Log: p.Log, Version: process.Version(), Operator: o, Endpoints: endpoints,
		Examine: func(ctx context.Context) (*doctor.Report, error) {
			return d.checks().examineOnce(ctx, func(context.Context) (jetstream.JetStream, func(), error) { return js, func() {}, nil })
		},
		Processes: func(context.Context) []console.Process { return []console.Process{ownMetrics(p, admin.Addr())} },
	})
	if err != nil {
		closeCodat()
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
		closeCodat()
		o.Close()
		nc.Close()
	}, nil
}

// endpoints asks the stand-in for Codat; nil without one.
func (d *devCmd) endpoints() (ask func(context.Context) ([]api.Webhook, error), done func(), err error) {
	if d.standIn == nil {
		return nil, func() {}, nil
	}
	client, err := api.New(d.standIn.settings, prometheus.NewRegistry())
	if err != nil {
		return nil, nil, err
	}
	return client.Webhooks, client.Close, nil
}

// checks are the checks of headgate doctor of this process.
func (d *devCmd) checks() *doctorCmd {
	c := &doctorCmd{
		MetricsURL: []string{"http://" + d.AdminListen + "/metrics"}, SecretFile: d.SecretFile, MaxBody: defaultMaxBody,
		connectFlags: connectFlags{Source: d.Source, NATS: stream.NATS{NATSURL: "nats://" + d.NATSListen}},
	}
	if d.standIn != nil {
		c.Codat = d.standIn.settings
	}
	return c
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
