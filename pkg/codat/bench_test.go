package codat_test

import (
	"encoding/json"
	"testing"

	"github.com/headgate/headgate/pkg/codat"
)

var sink codat.Head

func BenchmarkRead(b *testing.B) {
	body := []byte(`{"id":"7c0f","eventType":"invoices.write.successful","generatedDate":"2026-03-14T09:26:53.589Z","payload":{"id":"d2e8f4a1-6b3c-4a70-95fe-1c7d3b9a4e44","type":"Create","referenceCompany":{"id":"3f0c9a52-7b1e-4c64-9d0a-5a1f6e2b8c11","name":"Larkspur","description":"acct-000417","links":{"portal":"https://app.codat.io/companies/3f0c9a52-7b1e-4c64-9d0a-5a1f6e2b8c11/summary"},"tags":{"region":"uk","uid":"cust-000417"}},"connectionId":"c7d5e0f8-21b4-4f3a-8e6d-0b9a7c4d1e22","requestedOnDate":"2026-03-14T09:26:31Z","completedOnDate":"2026-03-14T09:26:52Z","status":"Success","record":{"id":"bankAccounts-10442"},"attachmentId":null}}`)
	b.Run("Read", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			sink, _ = codat.Read(body)
		}
	})
	b.Run("valid", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			json.Valid(body)
		}
	})
}
