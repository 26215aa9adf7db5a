package stream_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// onDisk reports whether a server's files have a text.
func onDisk(t *testing.T, folder, text string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		file, err := os.ReadFile(path)
		found = found || bytes.Contains(file, []byte(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestEraseMessage_OverwritesTheBytes(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	for _, text := range []string{"to be erased", "to be kept"} {
		if _, err := s.JS.Publish(t.Context(), "codat.events.company.created", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.EraseMessage(t.Context(), s.JS, "CODAT", 1); err != nil {
		t.Fatal(err)
	}
	for _, sequence := range []uint64{1, 7} {
		if err := stream.EraseMessage(t.Context(), s.JS, "CODAT", sequence); !errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Errorf("EraseMessage(%d) = %v; want ErrMsgNotFound", sequence, err)
		}
	}
	if err := stream.EraseMessage(t.Context(), s.JS, "NONE", 1); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("EraseMessage of another stream = %v; want ErrStreamNotFound", err)
	}
	s.Stop() // it writes what it holds
	if onDisk(t, s.Dir(), "to be erased") || !onDisk(t, s.Dir(), "to be kept") {
		t.Error("the files have the erased message, or not the other one")
	}
}

func TestEraseKey_RemovesOneKeyUpToAMessage(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	bucket, prefix := "KV_CODAT_workers", "$KV.CODAT_workers."
	put := func(key string) *jetstream.RawStreamMsg {
		ack, err := s.JS.Publish(t.Context(), prefix+key, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		return &jetstream.RawStreamMsg{Subject: prefix + key, Sequence: ack.Sequence}
	}
	first := put("a.b")
	put("a.c")
	if err := stream.EraseKey(t.Context(), s.JS, bucket, first); err != nil {
		t.Fatal(err)
	}
	if err := stream.EraseKey(t.Context(), s.JS, bucket, first); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("EraseKey = %v; want ErrMsgNotFound for what is gone", err)
	}
	put("a.b") // since it was found
	if err := stream.EraseKey(t.Context(), s.JS, bucket, first); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("EraseKey = %v; want a newer record kept", err)
	}
	for _, wide := range []string{"a.*", ">"} {
		if err := stream.EraseKey(t.Context(), s.JS, bucket, &jetstream.RawStreamMsg{Subject: prefix + wide, Sequence: 9}); err == nil || !strings.Contains(err.Error(), "wildcard") {
			t.Errorf("EraseKey(%s) = %v; want it refused", wide, err)
		}
	}
	st, err := s.JS.Stream(t.Context(), bucket)
	if err != nil || st.CachedInfo().State.Msgs != 2 {
		t.Errorf("the bucket has %d records, %v; want two", st.CachedInfo().State.Msgs, err)
	}
	if n, err := stream.PurgeSubjects(t.Context(), s.JS, bucket, prefix+"a.>"); err != nil || n != 2 {
		t.Errorf("PurgeSubjects = %d, %v; want 2", n, err)
	}
}

func TestDelete_TakesWhatDoesNotExist(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	for range 2 {
		if err := stream.DeleteConsumer(t.Context(), s.JS, "CODAT", "w"); err != nil {
			t.Errorf("DeleteConsumer = %v", err)
		}
		if err := stream.DeleteStream(t.Context(), s.JS, "CODAT_DEAD"); err != nil {
			t.Errorf("DeleteStream = %v", err)
		}
	}
	if _, err := stream.ConsumerOf(t.Context(), s.JS, "CODAT_DEAD", "w"); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("ConsumerOf = %v; want ErrConsumerNotFound", err)
	}
}
