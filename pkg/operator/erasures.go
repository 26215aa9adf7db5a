package operator

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// A PastErasure is the record of an erasure.
type PastErasure struct {
	At         time.Time // when it ended; zero without one
	User, Host string
	OfID       bool // it was that of the company with the id that was asked for
}

// LastErasure returns the newest erasure of the company with an id, or else the newest of any company, of those that have
// a record. It needs the permissions of stream.Read on the source's operator stream.
func LastErasure(ctx context.Context, js jetstream.JetStream, s stream.Source, id string) (last PastErasure, err error) {
	hash := companyID(id).hash()
	_, err = stream.Read(ctx, js, s.OperatorStream(), stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
		var e Entry
		if json.Unmarshal(m.Data, &e) != nil || e.Command != "erase" || e.Step != StepEnd {
			return nil
		}
		if ofID := e.Chosen["company_sha256"] == hash; ofID || !last.OfID {
			last = PastErasure{At: e.At, User: e.User, Host: e.Host, OfID: ofID}
		}
		return nil
	})
	return last, err
}
