package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// newReads returns a reader and the bucket that it reads, which holds records.
func newReads(t *testing.T, records ...Read) (Reads, jetstream.KeyValue) {
	t.Helper()
	server := streamtest.New(t, stream.WorkerSpec{
		Name: "reads", Types: []codat.Pattern{"read.completed"}, State: []string{ReadsName}, AckWait: time.Minute, MaxAckPending: 1,
	})
	r, err := OpenReads(t.Context(), server.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := server.JS.KeyValue(t.Context(), source.StateBucket(ReadsName))
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range records {
		putRead(t, kv, record)
	}
	return r, kv
}

func putRead(t *testing.T, kv jetstream.KeyValue, r Read) {
	t.Helper()
	key, err := ReadKey(r.Company, r.Connection, r.DataType)
	if err != nil {
		t.Fatal(err)
	}
	value, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

func TestReads_GetListAndScan(t *testing.T) {
	t.Parallel()
	read := func(company, connection string, d codat.DataType) Read {
		return Read{Company: company, Connection: connection, DataType: d, Status: codat.DatasetComplete}
	}
	a1, a2, a3, b1 := read("a", "1", codat.DataBills), read("a", "1", codat.DataInvoices), read("a", "2", codat.DataBankingAccounts), read("b", "1", codat.DataBills)
	r, kv := newReads(t, b1, a3, a2, a1, read("b", "2", codat.DataBills))
	if err := kv.Delete(t.Context(), "b.2.bills"); err != nil {
		t.Fatal(err)
	}
	got, err := r.Get(t.Context(), "a", "2", codat.DataBankingAccounts)
	if diff := cmp.Diff(a3, got); diff != "" || err != nil {
		t.Errorf("Get: error %v, (-want +got):\n%s", err, diff)
	}
	if _, err := r.Get(t.Context(), "a", "2", codat.DataBills); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("Get of an unknown read: error %v; want ErrKeyNotFound", err)
	}
	for _, tt := range []struct {
		filter ReadFilter
		want   []Read
	}{
		{ReadFilter{}, []Read{a1, a2, a3, b1}},
		{ReadFilter{Company: "a"}, []Read{a1, a2, a3}},
		{ReadFilter{Company: "c"}, nil},
		{ReadFilter{Connection: "1"}, []Read{a1, a2, b1}},
		{ReadFilter{DataType: codat.DataBills}, []Read{a1, b1}},
		{ReadFilter{Company: "a", Connection: "1", DataType: codat.DataInvoices}, []Read{a2}},
	} {
		got, err := r.Scan(t.Context(), tt.filter)
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("Scan(%+v): error %v, (-want +got):\n%s", tt.filter, err, diff)
		}
		if tt.filter != (ReadFilter{Company: tt.filter.Company}) {
			continue
		}
		got, err = r.List(t.Context(), tt.filter.Company)
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("List(%q): error %v, (-want +got):\n%s", tt.filter.Company, err, diff)
		}
	}
	if _, err := r.List(t.Context(), "*"); err == nil {
		t.Error("List(*) succeeded; want the id refused")
	}
	if _, err := r.Scan(t.Context(), ReadFilter{DataType: "b.>"}); err == nil {
		t.Error("Scan(b.>) succeeded; want the data type refused")
	}
	if _, err := kv.Put(t.Context(), "d.1.bills", []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.List(t.Context(), "d"); err == nil {
		t.Error("List succeeded although a record cannot be read")
	}
	if _, err := r.Scan(t.Context(), ReadFilter{Company: "d"}); err == nil || !strings.Contains(err.Error(), "d.1.bills") {
		t.Errorf("Scan of a record that cannot be read: %v; want an error that names its key", err)
	}
}

// More records than a batch has are written again while they are read: each is found, with its value of then or a newer one.
func TestReads_ScanFindsWhatChangesMeanwhile(t *testing.T) {
	t.Parallel()
	const records = 1200
	r, kv := newReads(t)
	for i := range records {
		putRead(t, kv, Read{Company: "a", Connection: connection(i), DataType: codat.DataBills})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ctx.Err() == nil; i++ {
			_, _ = kv.PutString(ctx, "a."+connection(i%records)+".bills", `{"company":"a","connection":"`+connection(i%records)+`","status":"Complete"}`)
		}
	}()
	for range 3 {
		got, err := r.Scan(t.Context(), ReadFilter{Company: "a"})
		if err != nil || len(got) != records {
			t.Errorf("Scan: %d records, %v; want %d", len(got), err, records)
		}
	}
	cancel()
	<-ended
}

// connection returns the id of a connection.
func connection(i int) string { return fmt.Sprintf("connection-%d", i) }

func TestReads_WatchCallsEachRecordAndEachChange(t *testing.T) {
	t.Parallel()
	first := Read{Company: "a", Connection: "1", DataType: codat.DataBills, Status: codat.DatasetFetchError}
	r, kv := newReads(t, first, Read{Company: "b", Connection: "1", DataType: codat.DataBills})
	second := first
	second.Status = codat.DatasetComplete
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stop := errors.New("stop")
	var got []Read
	err := r.Watch(ctx, "a", func(record Read) error {
		if got = append(got, record); len(got) == 2 {
			return stop
		}
		putRead(t, kv, second)
		return nil
	})
	if diff := cmp.Diff([]Read{first, second}, got); diff != "" || !errors.Is(err, stop) {
		t.Errorf("Watch: error %v; want that of the function; (-want +got):\n%s", err, diff)
	}
	if err := r.Watch(ctx, ">", func(Read) error { return nil }); err == nil || errors.Is(err, ctx.Err()) {
		t.Errorf("Watch(>) = %v; want the id refused", err)
	}
}

func TestOpenReads_ReportsAMissingBucket(t *testing.T) {
	t.Parallel()
	if _, err := OpenReads(t.Context(), streamtest.Empty(t).JS, source); !errors.Is(err, stream.ErrNotProvisioned) {
		t.Errorf("error %v; want ErrNotProvisioned", err)
	}
}

func TestReadKey_RefusesWhatNoKeyCanHave(t *testing.T) {
	if k, err := ReadKey("c", "k", codat.DataBankingAccountBalances); err != nil || k != "c.k.banking-accountBalances" {
		t.Errorf("ReadKey = %q, %v", k, err)
	}
	for _, id := range []string{"", "*", ">", "a.b", "a b", "ü", strings.Repeat("a", 129)} {
		for _, ids := range [][3]string{{id, "k", "bills"}, {"c", id, "bills"}, {"c", "k", id}} {
			if k, err := ReadKey(ids[0], ids[1], codat.DataType(ids[2])); err == nil {
				t.Errorf("ReadKey(%q) = %q; want it refused", ids, k)
			}
		}
	}
}
