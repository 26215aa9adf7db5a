package backup_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/pkg/backup"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/embedded"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const source = streamtest.Source

// empty starts a server without streams.
func empty(t *testing.T) jetstream.JetStream {
	t.Helper()
	server, err := embedded.Start(embedded.Options{Dir: t.TempDir(), LazySync: true})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		server.Shutdown()
	})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestRestore_MakesWhatSaveCopied(t *testing.T) {
	t.Parallel()
	const count = 40
	s := streamtest.New(t)
	body := func(n int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%d", n), 10_000) } // more than a chunk in all
	for n := range count {
		if _, err := s.JS.Publish(t.Context(), "codat.events.company.created", body(n), jetstream.WithMsgID(fmt.Sprint("msg_", n))); err != nil {
			t.Fatal(err)
		}
	}
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.DeleteMsg(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	consumer, err := st.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "reader", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		m, err := consumer.Next()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	folder := filepath.Join(t.TempDir(), "backup")
	var saved, restored []string
	if err := backup.Save(t.Context(), s.JS, folder, func(s backup.Stream) { saved = append(saved, fmt.Sprint(s)) }); err != nil {
		t.Fatalf("Save() = %v", err)
	}
	if len(saved) < 4 || !strings.HasPrefix(saved[0], "{CODAT 39 1 ") {
		t.Errorf("Save() copied %q; want CODAT first, with 39 messages and a consumer", saved)
	}

	js := empty(t)
	if err := backup.Restore(t.Context(), js, folder, 0, func(s backup.Stream) { restored = append(restored, fmt.Sprint(s)) }); err != nil {
		t.Fatalf("Restore() = %v", err)
	}
	if fmt.Sprint(restored) != fmt.Sprint(saved) {
		t.Errorf("Restore() made %q; want %q", restored, saved)
	}
	if st, err = js.Stream(t.Context(), source.Stream()); err != nil {
		t.Fatal(err)
	}
	for n := range count {
		m, err := st.GetMsg(t.Context(), uint64(n+1))
		if n == 6 {
			if err == nil {
				t.Error("the deleted message is back")
			}
			continue
		}
		if err != nil || !bytes.Equal(m.Data, body(n)) || m.Header.Get(jetstream.MsgIDHeader) != fmt.Sprint("msg_", n) {
			t.Errorf("message %d = %v; want its body and id", n+1, err)
		}
	}
	reader, err := st.Consumer(t.Context(), "reader")
	if err != nil {
		t.Fatal(err)
	}
	if info := reader.CachedInfo(); info.AckFloor.Stream != 11 || info.NumPending != count-11 {
		t.Errorf("the consumer has acknowledged up to %d, and %d are pending; want 11 and %d", info.AckFloor.Stream, info.NumPending, count-11)
	}
	// It can be repeated, with what is missing, and touches no stream that has gone on.
	if err := js.DeleteStream(t.Context(), source.DeadStream()); err != nil {
		t.Fatal(err)
	}
	if err := backup.Restore(t.Context(), js, folder, 0, func(backup.Stream) {}); err != nil {
		t.Errorf("a second Restore() = %v", err)
	}
	if _, err := js.Stream(t.Context(), source.DeadStream()); err != nil {
		t.Errorf("a second Restore() has not made the missing stream: %v", err)
	}
	if _, err := js.Publish(t.Context(), "codat.events.company.created", nil); err != nil {
		t.Fatal(err)
	}
	if err := backup.Restore(t.Context(), js, folder, 0, nil); err == nil || !strings.Contains(err.Error(), "CODAT exists, and has other messages") {
		t.Errorf("Restore() over a stream with another message = %v", err)
	}
}

// Entries of a bucket are replaced while it is copied, so that the copy has fewer than there were.
// With more replicas than the backup had, provision has nothing to change.
func TestRestore_MakesReplicasAsProvisionDoes(t *testing.T) {
	t.Parallel()
	layout := stream.Layout{Source: "codat-uk", Replicas: 1} // the cluster has the streams of codat
	one := streamtest.Empty(t)
	streamtest.Provision(t, one.JS, layout)
	folder := filepath.Join(t.TempDir(), "backup")
	if err := backup.Save(t.Context(), one.JS, folder, func(backup.Stream) {}); err != nil {
		t.Fatal(err)
	}
	cluster := streamtest.NewCluster(t)
	if err := backup.Restore(t.Context(), cluster.JS, folder, 3, func(backup.Stream) {}); err != nil {
		t.Fatal(err)
	}
	layout.Replicas = 3
	changes, err := stream.Provision(t.Context(), cluster.JS, layout, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		if c.Action != stream.Same {
			t.Errorf("provision would change what was restored: %v", c)
		}
	}
}

func TestRestore_TakesBackupOfBucketThatChanged(t *testing.T) {
	t.Parallel()
	const keys = 3000
	s := streamtest.New(t)
	subject, entry := "$KV."+source.WorkersBucket()+".k", make([]byte, 300)
	for n := range keys {
		if _, err := s.JS.PublishAsync(subject+fmt.Sprint(n), entry); err != nil {
			t.Fatal(err)
		}
	}
	<-s.JS.PublishAsyncComplete()
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for writer := range 4 {
		writers.Go(func() { // the key 0 stays the first message
			for n := writer; ctx.Err() == nil; n += 4 {
				_, _ = s.JS.Publish(ctx, subject+fmt.Sprint(1+n%(keys-1)), entry)
			}
		})
	}
	defer writers.Wait()
	defer stop()
	for range 3 {
		folder := filepath.Join(t.TempDir(), "backup")
		if err := backup.Save(t.Context(), s.JS, folder, func(backup.Stream) {}); err != nil {
			t.Fatalf("Save() = %v", err)
		}
		js := empty(t)
		for range 2 {
			if err := backup.Restore(t.Context(), js, folder, 0, func(backup.Stream) {}); err != nil {
				t.Fatalf("Restore() = %v", err)
			}
		}
	}
}

// What a claim says was stored is copied after it, for each source.
func TestSave_CopiesEventsClaimsAndThenTheRest(t *testing.T) {
	t.Parallel()
	want := []string{
		"CODAT", "UK", "KV_CODAT_claims_a", "KV_UK_claims_a", "CODAT_PARKED", "UK_PARKED", "CODAT_DEAD", "UK_DEAD",
		"CODAT_OPERATOR", "KV_CODAT_bookings", "KV_UK_workers",
	}
	js := empty(t)
	for _, name := range slices.Sorted(slices.Values(want)) {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}}); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	folder := filepath.Join(t.TempDir(), "backup") + string(filepath.Separator)
	if err := backup.Save(t.Context(), js, folder, func(s backup.Stream) { got = append(got, s.Name) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("Save() copies %q; want %q", got, want)
	}
}

func TestSave_Refuses(t *testing.T) {
	t.Parallel()
	js, folder := empty(t), t.TempDir()
	if err := backup.Save(t.Context(), js, folder, nil); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("Save() to a folder that exists = %v", err)
	}
	if err := backup.Save(t.Context(), js, filepath.Join(folder, "new"), nil); err == nil || !strings.Contains(err.Error(), "no stream") {
		t.Errorf("Save() of nothing = %v", err)
	}
}

func TestRestore_Refuses(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	if _, err := s.JS.Publish(t.Context(), "codat.events.company.created", nil); err != nil {
		t.Fatal(err)
	}
	whole := filepath.Join(t.TempDir(), "backup")
	if err := backup.Save(t.Context(), s.JS, whole, func(backup.Stream) {}); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(folder string) error{
		"no file of the stream": func(f string) error { return os.Remove(filepath.Join(f, "CODAT", "backup.json")) },
		"no data":               func(f string) error { return os.Remove(filepath.Join(f, "CODAT", "stream.tar.s2")) },
		"half of the data":      func(f string) error { return os.Truncate(filepath.Join(f, "CODAT", "stream.tar.s2"), 200) },
		"an empty folder":       os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "backup")
			if err := os.CopyFS(folder, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			if err := damage(folder); err != nil {
				t.Fatal(err)
			}
			if err := backup.Restore(t.Context(), empty(t), folder, 0, func(s backup.Stream) { t.Errorf("it made %s", s.Name) }); err == nil {
				t.Error("Restore() = nil; want an error")
			} else {
				t.Log(err)
			}
		})
	}
}

// A backup of the nats CLI from a server 2.15 differs in the name of a file.
func TestRestore_TakesBackupOfTheNATSCLI(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	folder := filepath.Join(t.TempDir(), "backup")
	var saved []backup.Stream
	if err := backup.Save(t.Context(), s.JS, folder, func(s backup.Stream) { saved = append(saved, s) }); err != nil {
		t.Fatal(err)
	}
	for _, s := range saved {
		if err := os.Rename(filepath.Join(folder, s.Name, "stream.tar.s2"), filepath.Join(folder, s.Name, "stream.arc.s2")); err != nil {
			t.Fatal(err)
		}
	}
	var restored []backup.Stream
	if err := backup.Restore(t.Context(), empty(t), folder, 0, func(s backup.Stream) { restored = append(restored, s) }); err != nil || !slices.Equal(restored, saved) {
		t.Errorf("Restore = %+v, %v; want %+v", restored, err, saved)
	}
}

// A server that cannot make a stream yet is asked again, and one that never can is not.
func TestRestore_TriesAgain(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	folder := filepath.Join(t.TempDir(), "backup")
	if err := backup.Save(t.Context(), s.JS, folder, func(backup.Stream) {}); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		answers []string
		tries   int64
		err     string
	}{
		"no peers, then no leader": {[]string{`{"error":{"code":400,"err_code":10005}}`, `{"error":{"code":503,"err_code":10008}}`, `{"error":{"code":500,"err_code":10074,"description":"end of the test"}}`}, 3, "end of the test"},
		"too many replicas":        {[]string{`{"error":{"code":500,"err_code":10074,"description":"replicas > 1"}}`}, 1, "replicas > 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true}) // without JetStream
			if err != nil {
				t.Fatal(err)
			}
			srv.Start()
			defer srv.WaitForShutdown()
			defer srv.Shutdown()
			if !srv.ReadyForConnections(time.Minute) {
				t.Fatal("the server is not ready")
			}
			nc, err := nats.Connect(srv.ClientURL())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			var tries atomic.Int64
			answer := func(m *nats.Msg) {
				text := `{"error":{"code":404,"err_code":10059}}` // no stream is there
				switch {
				case m.Subject == "$JS.API.INFO":
					text = "{}"
				case strings.HasPrefix(m.Subject, "$JS.API.STREAM.RESTORE."):
					text = tt.answers[min(int(tries.Add(1)), len(tt.answers))-1]
				}
				_ = m.Respond([]byte(text))
			}
			if _, err := nc.Subscribe("$JS.API.>", answer); err != nil {
				t.Fatal(err)
			}
			err = backup.Restore(t.Context(), js, folder, 0, func(backup.Stream) {})
			if err == nil || !strings.Contains(err.Error(), tt.err) || tries.Load() != tt.tries {
				t.Errorf("Restore = %v after %d tries; want %q after %d", err, tries.Load(), tt.err, tt.tries)
			}
		})
	}
}
