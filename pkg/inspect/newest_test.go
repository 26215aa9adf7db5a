package inspect

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// storeMany stores n events, of two types and three companies in turn, and returns a time before the middle one was stored.
func storeMany(t *testing.T, server *streamtest.Server, n int) (middle time.Time) {
	t.Helper()
	began := time.Now().Add(-time.Duration(n) * time.Minute)
	for i := range n {
		e := stream.Stored{ID: fmt.Sprintf("msg_%d", i), Received: began.Add(time.Duration(i) * time.Minute)}
		e.Head.Type = []string{"invoices.write.successful", "read.completed"}[i%2]
		e.Head.Company = []string{"a", "b", "c"}[i%3]
		m, err := streamtest.Source.Message(e, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if i == n/2 {
			middle = time.Now()
		}
		if _, err := server.JS.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	return middle
}

func TestNewest_PagesHaveEveryEventOnce(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t)
	const n = 500
	middle := storeMany(t, server, n)
	tests := map[string]struct {
		q    NewestQuery
		want func(i int) bool
	}{
		"all":               {NewestQuery{}, func(int) bool { return true }},
		"type":              {NewestQuery{Type: "read.*"}, func(i int) bool { return i%2 == 1 }},
		"company":           {NewestQuery{Company: "b"}, func(i int) bool { return i%3 == 1 }},
		"company and type":  {NewestQuery{Company: "b", Type: "read.*"}, func(i int) bool { return i%3 == 1 && i%2 == 1 }},
		"company and since": {NewestQuery{Company: "b", Since: middle}, func(i int) bool { return i%3 == 1 && i >= n/2 }},
		"company and until": {NewestQuery{Company: "b", Until: middle}, func(i int) bool { return i%3 == 1 && i < n/2 }},
		"company and keep": {NewestQuery{Company: "b", Keep: func(_ context.Context, all []Event) (kept []Event, _ error) {
			for _, e := range all {
				if e.Sequence%4 == 0 {
					kept = append(kept, e)
				}
			}
			return kept, nil
		}}, func(i int) bool { return i%3 == 1 && (i+1)%4 == 0 }},
		"since": {NewestQuery{Since: middle}, func(i int) bool { return i >= n/2 }},
		"until": {NewestQuery{Until: middle}, func(i int) bool { return i < n/2 }},
		"keep": {NewestQuery{Keep: func(_ context.Context, all []Event) (kept []Event, _ error) {
			for _, e := range all {
				if e.Sequence%10 == 0 {
					kept = append(kept, e)
				}
			}
			return kept, nil
		}}, func(i int) bool { return (i+1)%10 == 0 }},
	}
	check := func(where string) {
		for name, tt := range tests {
			newestPages(t, server, where+", "+name, tt.q, n, tt.want)
		}
	}
	check("without an index")
	index, stop := keepIndex(server.JS, MinIndexBytes)
	t.Cleanup(stop)
	streamtest.Wait(t, func() bool { return index.State().Events == n }, "the index knows all")
	check("with an index")
}

// newestPages checks that the pages of a query have the events that are wanted, once.
func newestPages(t *testing.T, server *streamtest.Server, name string, q NewestQuery, n int, wanted func(i int) bool) {
	t.Helper()
	q.Limit, q.Look = 17, 200
	var got []uint64
	for pages := 0; pages < n; pages++ {
		page, err := Newest(t.Context(), server.JS, streamtest.Source, q)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, e := range page.Events {
			got = append(got, e.Sequence)
		}
		if page.Next == 0 {
			break
		}
		q.Before = page.Next
	}
	var want []uint64
	for i := n - 1; i >= 0; i-- {
		if wanted(i) {
			want = append(want, uint64(i+1))
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %d events, %v; want %d", name, len(got), got, len(want))
	}
}

// An event that is far back is found at once where an index answers, and where none does a page says that it has not looked so far.
func TestNewest_FindsWhatIsFarBackByTheIndex(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t)
	anEvent(t, server.JS, "msg_rare", "rare", "")
	storeMany(t, server, 200)
	again, err := source.Message(stream.Stored{ID: "msg_rare", Head: codat.Head{Type: "invoices.write.successful", Company: "rare", Connection: "connection of rare"}}, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	again.Subject = source.RedriveSubject("writes", "invoices.write.successful") // which is no event of its own
	again.Header.Set(stream.HeaderRedrive, "r-1")
	again.Header.Set(jetstream.MsgIDHeader, "redrive of msg_rare")
	if _, err := server.JS.PublishMsg(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	for _, q := range []NewestQuery{{Company: "rare"}, {Connection: "connection of rare"}, {Company: "rare", Type: "*.write.successful"}} {
		q.Limit, q.Look = 5, 100
		page, err := Newest(t.Context(), server.JS, source, q)
		if err != nil || len(page.Events) != 0 || page.Next == 0 {
			t.Errorf("Newest of %+v without an index = %+v, %v; want none, and where to go on", q, page, err)
		}
	}
	index, stop := keepIndex(server.JS, MinIndexBytes)
	t.Cleanup(stop)
	streamtest.Wait(t, func() bool { return index.State().Events == 202 }, "the index knows all")
	for _, q := range []NewestQuery{{Company: "rare"}, {Connection: "connection of rare"}, {Company: "rare", Type: "*.write.successful"}} {
		q.Limit, q.Look = 5, 100
		page, err := Newest(t.Context(), server.JS, source, q)
		if err != nil || len(page.Events) != 1 || page.Next != 0 || page.Looked != 202 {
			t.Errorf("Newest of %+v = %+v, %v; want the first event, and no more", q, page, err)
		}
	}
	page, err := Newest(t.Context(), server.JS, source, NewestQuery{Company: "rare", Type: "read.completed", Limit: 5, Look: 100})
	if err != nil || len(page.Events) != 0 || page.Next != 0 {
		t.Errorf("Newest of another type = %+v, %v; want none", page, err)
	}
}

func TestNewest_EmptyStream(t *testing.T) {
	t.Parallel()
	page, err := Newest(t.Context(), streamtest.New(t).JS, streamtest.Source, NewestQuery{Limit: 5, Look: 100})
	if err != nil || len(page.Events) != 0 || page.Next != 0 {
		t.Errorf("Newest = %+v, %v", page, err)
	}
}

func TestHandlings_SaysWhatBecameOfEachEvent(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t,
		stream.WorkerSpec{Name: "reads", Types: []codat.Pattern{"read.completed"}, Begin: stream.BeginAll()},
		stream.WorkerSpec{Name: "writes", Types: []codat.Pattern{"invoices.write.successful"}, Begin: stream.BeginAll()})
	storeMany(t, server, 2)
	bucket, err := server.JS.KeyValue(t.Context(), streamtest.Source.ClaimsBucket("writes"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(claims.Record{State: claims.Dead, Sequence: 1, Attempts: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.Put(t.Context(), claims.Key{WebhookID: "msg_0"}.String(), text); err != nil {
		t.Fatal(err)
	}
	page, err := Newest(t.Context(), server.JS, streamtest.Source, NewestQuery{Limit: 5, Look: 100})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Handlings(t.Context(), server.JS, streamtest.Source, page.Events)
	if err != nil {
		t.Fatal(err)
	}
	want := [][2]HandlingState{{NotDelivered, NotTaken}, {NotTaken, HandlingState(claims.Dead)}} // of reads and writes
	for i, handlings := range got {
		for n, h := range handlings {
			if h.State != want[i][n] {
				t.Errorf("event %d in %s: %q; want %q", page.Events[i].Sequence, h.Worker, h.State, want[i][n])
			}
		}
	}
	if len(got) != 2 || len(got[0]) != 2 || got[1][1].Claim == nil || got[1][1].Claim.Attempts != 3 {
		t.Errorf("Handlings = %+v", got)
	}
}
