package connections

import (
	"context"
	"slices"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

// Settings are the worker's; it has none of its own.
type Settings struct {
	workers.Settings `embed:""`
}

// Run runs the worker until ctx ends.
func Run(ctx context.Context, s *Settings, p *process.Process) error {
	return workers.Run(ctx, s.Settings, p, Worker(Store{}), func(ctx context.Context, parts workers.Parts) (workers.Worker, error) {
		store, err := Open(ctx, parts.JS, parts.Source)
		return Worker(store), err
	})
}

// Worker is the worker over a store. Every event about a connection, of today's types and of the legacy ones, adds
// what it says; a read adds whether its connections were authorised.
func Worker(s Store) workers.Worker {
	read := s.read
	return workers.Worker{
		Name:  Name,
		State: []string{Name},
		Begin: stream.BeginAll(), // the state of a connection is told by its whole past
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

// change learns from a connection event. unsaid is the status when the payload has none.
func (s Store) change(unsaid codat.ConnectionStatus) func(context.Context, codat.Event[codat.ConnectionChange]) error {
	return func(ctx context.Context, e codat.Event[codat.ConnectionChange]) error {
		c := e.Payload.Connection
		f := fact(e)
		f.Status, f.Platform, f.PlatformName, f.SourceType = c.Status, c.IntegrationKey, c.PlatformName, c.SourceType
		if f.Status == "" {
			f.Status = unsaid
		}
		// The type decides, and not the status: Codat's own example of a deleted connection says Linked.
		f.Deleted = e.Type == string(codat.ConnectionDeleted)
		return s.learn(ctx, e.Payload.ReferenceCompany.ID, c.ID, f)
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
	return s.learn(ctx, e.Payload.CompanyID, connection, f)
}

// legacyDelete learns that a Sync for Commerce connection is gone. As documented, the event names its company only:
// then it says nothing of any one connection.
func (s Store) legacyDelete(ctx context.Context, e codat.Event[codat.Rule[codat.NoData]]) error {
	if e.Payload.DataConnectionID == "" {
		return nil
	}
	f := fact(e)
	f.Deleted = true
	return s.learn(ctx, e.Payload.CompanyID, e.Payload.DataConnectionID, f)
}

// read learns of every connection that a read names whether it was authorised.
func (s Store) read(ctx context.Context, e codat.Event[codat.ReadResult]) error {
	broken := e.Payload.AuthErrors()
	var seen []string
	for _, d := range e.Payload.DataTypes {
		if d.ConnectionID == "" || slices.Contains(seen, d.ConnectionID) {
			continue
		}
		seen = append(seen, d.ConnectionID)
		f := fact(e)
		f.AuthError = slices.Contains(broken, d.ConnectionID)
		if err := s.learn(ctx, e.Payload.ReferenceCompany.ID, d.ConnectionID, f); err != nil {
			return err
		}
	}
	return nil
}

func fact[P any](e codat.Event[P]) Fact {
	return Fact{Type: e.Type, WebhookID: e.WebhookID, Generated: e.Generated, Received: e.Received, Sequence: e.Sequence}
}
