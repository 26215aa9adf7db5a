package connections

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

// Settings are the settings of every worker, those of Codat's API, and how often connections are reconciled with it.
type Settings struct {
	workers.Settings `embed:""`
	Codat            api.Settings `embed:""`

	Reconcile time.Duration `name:"reconcile" default:"24h" help:"Time after which Codat is asked again for the connections of every company that has a record, from 1m to 168h; 0 means never. It needs --codat-key-file, and makes one call for each company."`
}

const minReconcile, maxReconcile = time.Minute, 168 * time.Hour

// maxConnections is the number of records that one event may write. A company has fewer than ten connections.
const maxConnections = 1000

// Validate returns an error that names the first setting with a value that cannot be used.
func (s *Settings) Validate() error {
	err := errors.Join(s.Settings.Validate(), s.Codat.Validate())
	if s.Reconcile != 0 && (s.Reconcile < minReconcile || s.Reconcile > maxReconcile) {
		err = errors.Join(err, fmt.Errorf("--reconcile must be from %s to %s, or 0 for never (got %s)", minReconcile, maxReconcile, s.Reconcile))
	}
	return err
}

// Run runs the worker until ctx ends. With an API key it reconciles the records with Codat.
func Run(ctx context.Context, s *Settings, p *process.Process) error {
	return run(ctx, s, p, defaultPace(s.Reconcile, s.Codat.CodatTimeout))
}

func run(ctx context.Context, s *Settings, p *process.Process, pace pace) error {
	var asked connectionsAPI
	if s.Codat.Enabled() && s.Reconcile > 0 {
		client, err := api.New(s.Codat, p.Metrics)
		if err != nil {
			return process.Misconfigured(err)
		}
		defer client.Close()
		asked = client
		var watch sync.WaitGroup
		defer watch.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		watch.Go(func() { client.WatchKey(ctx, p.Log) })
		p.Health.Add("codat key", func(context.Context) error { return process.Warning(client.KeyProblem()) })
	}
	m := newMetrics(p.Metrics)
	return workers.Run(ctx, s.Settings, p, Worker(Store{}), func(ctx context.Context, parts workers.Parts) (workers.Worker, error) {
		bucket, err := parts.State(ctx, state.ConnectionsName)
		w := Worker(Store{bucket})
		if err == nil && asked != nil {
			m.period.Set(s.Reconcile.Seconds())
			w.Background = newReconciler(Store{bucket}, parts, asked, m, pace).run
		}
		return w, err
	})
}

// Worker returns the worker that writes to a store. Every event about a connection, of the current and of the legacy types,
// adds what it says; a read adds whether its connections were authorised.
func Worker(s Store) workers.Worker {
	read := s.read
	return workers.Worker{
		Name:  Name,
		State: []string{state.ConnectionsName},
		Reads: []string{state.QuotaName},
		Begin: stream.BeginAll(), // the state of a connection follows from all of its events
		Key:   connectionKey,
		Handlers: []workers.Handler{
			workers.Handle(codat.ConnectionCreated, s.change(codat.PendingAuth)),
			workers.Handle(codat.ConnectionConnected, s.change(codat.Linked)),
			workers.Handle(codat.ConnectionFailed, s.change(codat.PendingAuth)),
			workers.Handle(codat.ConnectionDisconnected, s.change(codat.Deauthorized)),
			workers.Handle(codat.ConnectionReconnected, s.change(codat.Linked)),
			workers.Handle(codat.ConnectionDeleted, s.change("")),
			workers.Handle(codat.DataConnectionStatusChanged, s.legacyChange),
			workers.Handle(codat.SyncConnectionDeleted, s.legacyDelete),
			workers.Handle(codat.ReadCompleted, read),
			workers.Handle(codat.ReadCompletedInitial, read),
			workers.Handle(codat.ReadCompletedSuccessful, read),
			workers.Handle(codat.ReadCompletedUnsuccessful, read),
			workers.Handle(codat.ReadCompletedSuccessfulInitial, read),
			workers.Handle(codat.ProductReadCompleted, read),
			workers.Handle(codat.ProductReadCompletedSuccessful, read),
			workers.Handle(codat.ProductReadCompletedUnsuccessful, read),
		},
	}
}

// connectionKey returns the connection of an event, because two events of one cannot write its record at once, and the company
// of an event that names several or none.
func connectionKey(e codat.Event[struct{}]) string {
	if e.Connection == "" {
		return e.Company
	}
	return e.Company + "." + e.Connection
}

// change handles a connection event. missing is the status when the payload has none.
func (s Store) change(missing codat.ConnectionStatus) func(context.Context, codat.Event[codat.ConnectionChange]) error {
	return func(ctx context.Context, e codat.Event[codat.ConnectionChange]) error {
		c := e.Payload.Connection
		f := fact(e)
		f.Status, f.Platform, f.PlatformName, f.SourceType = c.Status, c.IntegrationKey, c.PlatformName, c.SourceType
		if f.Status == "" {
			f.Status = missing
		}
		// The type decides and not the status: Codat's own example of a deleted connection has the status Linked.
		f.Deleted = e.Type == string(codat.ConnectionDeleted)
		return s.add(ctx, e.Payload.ReferenceCompany.ID, c.ID, f)
	}
}

func (s Store) legacyChange(ctx context.Context, e codat.Event[codat.Rule[codat.DataConnectionStatusChangedData]]) error {
	d := e.Payload.Data
	f := fact(e)
	f.Status, f.Platform = d.NewStatus, d.PlatformKey
	connection := d.DataConnectionID
	if connection == "" {
		connection = e.Payload.DataConnectionID
	}
	return s.add(ctx, e.Payload.CompanyID, connection, f)
}

// legacyDelete handles the deletion of a Sync for Commerce connection. As documented, the event names only its company:
// such an event changes no record.
func (s Store) legacyDelete(ctx context.Context, e codat.Event[codat.Rule[codat.NoData]]) error {
	if e.Payload.DataConnectionID == "" {
		return nil
	}
	f := fact(e)
	f.Deleted = true
	return s.add(ctx, e.Payload.CompanyID, e.Payload.DataConnectionID, f)
}

// read adds to every connection that a read names whether it was authorised. Its errors are those of workers.UpdateRecord, and a
// permanent one for ids that no key can have, after the others were added.
func (s Store) read(ctx context.Context, e codat.Event[codat.ReadResult]) error {
	broken := map[string]bool{} // whether it was not authorised, by connection
	for _, d := range e.Payload.DataTypes {
		if d.ConnectionID != "" {
			broken[d.ConnectionID] = broken[d.ConnectionID] || d.Status == codat.DatasetAuthError
		}
	}
	if len(broken) > maxConnections {
		return workers.Permanent(fmt.Errorf("the event names %d connections, and at most %d are recorded: none was", len(broken), maxConnections))
	}
	var refused error
	company := e.Payload.ReferenceCompany.ID
	for connection, failed := range broken {
		if _, err := state.ConnectionKey(company, connection); err != nil {
			refused = err
			continue
		}
		f := fact(e)
		f.AuthError = failed
		if err := s.add(ctx, company, connection, f); err != nil {
			return err
		}
	}
	if refused != nil {
		return workers.Permanent(fmt.Errorf("the event names connections that were not recorded: %w", refused))
	}
	return nil
}

func fact[P any](e codat.Event[P]) state.ConnectionFact {
	return state.ConnectionFact{Type: e.Type, WebhookID: e.WebhookID, Generated: e.Generated, Received: e.Received, Sequence: e.Sequence}
}
