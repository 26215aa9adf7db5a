package reads

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

// Settings are the settings of every worker.
type Settings struct {
	workers.Settings `embed:""`
}

// Run runs the worker until ctx ends.
func Run(ctx context.Context, s *Settings, p *process.Process) error {
	return workers.Run(ctx, s.Settings, p, Worker(Store{}), func(ctx context.Context, parts workers.Parts) (workers.Worker, error) {
		bucket, err := parts.State(ctx, state.ReadsName)
		return Worker(Store{bucket}), err
	})
}

const (
	// keepReads is how long the record of a data type is kept that Codat reads no more. It is longer than the 90 days after which
	// Codat ends the authorisation of a connection that it has not read, and than those for which dead letters are kept.
	keepReads = 180 * 24 * time.Hour

	// maxRecords is the number of records that one event may write. Codat has fewer than 50 data types.
	maxRecords = 1000
	// Of one read, maxIssueTypes are kept, the first by name. Texts that Codat chooses are cut at maxText bytes.
	maxIssueTypes = 20
	maxText       = 128
)

// Worker returns the worker that writes to a store. Every event about a read, of the current and of the legacy types, adds
// what it says to the records of all data types that it names. An event or an element without a data type or a connection
// names no record.
func Worker(s Store) workers.Worker {
	read, successful := s.read(""), s.read(codat.DatasetComplete)
	return workers.Worker{
		Name:        Name,
		State:       []string{state.ReadsName},
		StateMaxAge: map[string]time.Duration{state.ReadsName: keepReads},
		Begin:       stream.BeginAll(), // the state of a read follows from all of its events
		// An event can name several connections: only the company is common to all that write one record.
		Key: func(e codat.Event[struct{}]) string { return e.Company },
		Handlers: []workers.Handler{
			workers.Handle(codat.ReadCompleted, read),
			workers.Handle(codat.ReadCompletedInitial, read),
			workers.Handle(codat.ReadCompletedSuccessful, successful),
			workers.Handle(codat.ReadCompletedUnsuccessful, read),
			workers.Handle(codat.ReadCompletedSuccessfulInitial, successful),
			workers.Handle(codat.ProductReadCompleted, read),
			workers.Handle(codat.ProductReadCompletedSuccessful, successful),
			workers.Handle(codat.ProductReadCompletedUnsuccessful, read),
			workers.Handle(codat.ReadComplete, read),
			workers.Handle(codat.DataSyncCompleted, s.legacyEnd(false)),
			workers.Handle(codat.DatasetDataChanged, s.legacyEnd(true)),
			workers.Handle(codat.DataSyncStatusChangedToError, s.legacyError),
		},
	}
}

// A Store writes the records of one source. The zero Store is enough for the Spec of a Worker.
type Store struct{ bucket jetstream.KeyValue }

// A target is what a record is about, without its company.
type target struct {
	connection string
	dataType   codat.DataType
}

// read handles an event of the current types. missing is the status of an element that has none.
func (s Store) read(missing codat.DatasetStatus) func(context.Context, codat.Event[codat.ReadResult]) error {
	return func(ctx context.Context, e codat.Event[codat.ReadResult]) error {
		elements := map[target][]codat.Dataset{}
		for _, d := range e.Payload.DataTypes {
			if d.ConnectionID == "" || d.DataType == "" {
				continue
			}
			t := target{d.ConnectionID, d.DataType}
			elements[t] = append(elements[t], d)
		}
		if len(elements) > maxRecords {
			return workers.Permanent(fmt.Errorf("the event names %d data types of connections, and at most %d are recorded: none was", len(elements), maxRecords))
		}
		facts := map[target]state.ReadFact{}
		for t, of := range elements {
			f := fact(e)
			f.First = strings.HasSuffix(e.Type, ".initial")
			f.Status, f.RecordsModified, f.Issues = outcome(of, missing)
			facts[t] = f
		}
		return s.addAll(ctx, e.Payload.ReferenceCompany.ID, facts)
	}
}

// outcome returns what the elements of one data type and connection say together. There is one, as documented; with several,
// one that failed decides.
func outcome(of []codat.Dataset, missing codat.DatasetStatus) (status codat.DatasetStatus, recordsModified bool, issues map[string]int) {
	counts := map[string]int{}
	for _, d := range of {
		if status == "" || d.Status.IsError() && !status.IsError() {
			status = d.Status
		}
		recordsModified = recordsModified || d.RecordsModified
		for _, i := range d.Issues {
			counts[cut(i.Type)]++
		}
	}
	for _, typ := range slices.Sorted(maps.Keys(counts))[:min(len(counts), maxIssueTypes)] {
		if issues == nil {
			issues = map[string]int{}
		}
		issues[typ] = counts[typ]
	}
	if status == "Success" { // the word of Codat's note about the end of the legacy types
		status = codat.DatasetComplete
	}
	return cmp.Or(codat.DatasetStatus(cut(string(status))), missing), recordsModified, issues
}

// legacyEnd handles the event of a data type that was read, or that was read with changes.
func (s Store) legacyEnd(recordsModified bool) func(context.Context, codat.Event[codat.Rule[codat.DatasetData]]) error {
	return func(ctx context.Context, e codat.Event[codat.Rule[codat.DatasetData]]) error {
		f := fact(e)
		f.Status, f.RecordsModified, f.Dataset = codat.DatasetComplete, recordsModified, cut(e.Payload.Data.DatasetID)
		return s.addLegacy(ctx, e.Payload.CompanyID, target{e.Payload.DataConnectionID, e.Payload.Data.DataType}, f)
	}
}

func (s Store) legacyError(ctx context.Context, e codat.Event[codat.Rule[codat.DataSyncStatusChangedToErrorData]]) error {
	d := e.Payload.Data
	f := fact(e)
	f.Status, f.Dataset = codat.DatasetStatus(cut(string(d.DatasetStatus))), cut(d.DatasetID)
	return s.addLegacy(ctx, e.Payload.CompanyID, target{e.Payload.DataConnectionID, d.DataType}, f)
}

func (s Store) addLegacy(ctx context.Context, company string, t target, f state.ReadFact) error {
	if t.connection == "" || t.dataType == "" {
		return nil
	}
	return s.addAll(ctx, company, map[target]state.ReadFact{t: f})
}

// addAll adds facts to the records of a company. Adding them again changes nothing. Its errors are those of
// workers.UpdateRecord, and a permanent one for ids and data types that no key can have, after the others were added.
func (s Store) addAll(ctx context.Context, company string, facts map[target]state.ReadFact) error {
	var refused error
	n := 0
	for t, f := range facts {
		key, err := state.ReadKey(company, t.connection, t.dataType)
		if err != nil {
			refused, n = err, n+1
			continue
		}
		err = workers.UpdateRecord(ctx, s.bucket, key, func(r state.Read) state.Read {
			r.Company, r.Connection, r.DataType = company, t.connection, t.dataType
			return with(r, f)
		})
		if err != nil {
			return err
		}
	}
	if refused != nil {
		return workers.Permanent(fmt.Errorf("%d of %d data types of connections were not recorded: %w", n, len(facts), refused))
	}
	return nil
}

func fact[P any](e codat.Event[P]) state.ReadFact {
	return state.ReadFact{Type: e.Type, WebhookID: e.WebhookID, Generated: e.Generated, Received: e.Received, Sequence: e.Sequence}
}

// cut returns the first bytes of a text, and no part of a character.
func cut(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}
