package codat_test

import (
	"encoding/json"
	"testing"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
)

var kept codat.Head

// BenchmarkRead compares what the ingress does with each event to its floor, knowing that
// the body is JSON at all, and to decoding the head with encoding/json.
func BenchmarkRead(b *testing.B) {
	for _, name := range []string{"invoices.write.successful", "read.completed", "PushOperationStatusChanged"} {
		e, _ := examples.Of(name)
		b.Run("read/"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(e.Body)))
			for b.Loop() {
				var err error
				if kept, err = codat.Read(e.Body); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("valid/"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(e.Body)))
			for b.Loop() {
				if !json.Valid(e.Body) {
					b.Fatal("not valid")
				}
			}
		})
		b.Run("unmarshal/"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(e.Body)))
			for b.Loop() {
				var head struct {
					ID, EventType, GeneratedDate, RuleType, CompanyID, DataConnectionID string
					Payload                                                             struct {
						ID, ConnectionID string
						ReferenceCompany struct{ ID string }
						Connection       struct{ ID, IntegrationKey string }
						DataTypes        []struct{ ConnectionID string }
					}
				}
				if err := json.Unmarshal(e.Body, &head); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
