package embedded_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream/embedded"
)

func TestStart_KeepsDataAndUnlocksFolder(t *testing.T) {
	t.Parallel()
	opts := embedded.Options{Dir: t.TempDir() + "/made/for/us"}
	for start := 1; start <= 2; start++ {
		s, err := embedded.Start(opts)
		if err != nil {
			t.Fatalf("Start() for the %d. time = %v", start, err)
		}
		nc, err := nats.Connect(s.ClientURL())
		if err != nil {
			t.Fatalf("Connect(%s) = %v", s.ClientURL(), err)
		}
		if nc.MaxPayload() != embedded.MaxPayload {
			t.Errorf("MaxPayload() = %d; want %d", nc.MaxPayload(), embedded.MaxPayload)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
			t.Fatalf("CreateStream() = %v", err)
		}
		ack, err := js.Publish(t.Context(), "s", nil)
		if err != nil || ack.Sequence != uint64(start) {
			t.Errorf("Publish() after start %d = %+v, %v; want sequence %d", start, ack, err, start)
		}
		nc.Close()
		if err := s.Shutdown(); err != nil {
			t.Errorf("Shutdown() = %v", err)
		}
		if err := s.Shutdown(); err != nil {
			t.Errorf("a second Shutdown() = %v; want nothing to happen", err)
		}
	}
	if info, err := os.Stat(opts.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder is %v, %v; want it to be ours alone", info.Mode(), err)
	}
}

func TestStart_InProcess(t *testing.T) {
	t.Parallel()
	s, err := embedded.Start(embedded.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown()
	nc, err := s.Conn(nats.Name("inside"))
	if err != nil {
		t.Fatalf("Conn() = %v", err)
	}
	defer nc.Close()
	if err := nc.Flush(); err != nil {
		t.Errorf("Flush() = %v", err)
	}
}

func TestStart_Refuses(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port

	used := t.TempDir()
	running, err := embedded.Start(embedded.Options{Dir: used})
	if err != nil {
		t.Fatal(err)
	}
	defer running.Shutdown()

	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	tests := []struct {
		name string
		opts embedded.Options
		says string
	}{
		{"a folder that another server uses", embedded.Options{Dir: used}, used + " is used by another process"},
		{"a port that is taken", embedded.Options{Dir: t.TempDir(), Listen: taken.Addr().String()}, fmt.Sprintf("port %d is taken", port)},
		{"no folder", embedded.Options{}, "needs a folder"},
		{"a folder that is a file", embedded.Options{Dir: file}, "make the data folder"},
		{"an address without a port", embedded.Options{Dir: t.TempDir(), Listen: "127.0.0.1"}, "must be host:port"},
		{"a port that is a word", embedded.Options{Dir: t.TempDir(), Listen: "127.0.0.1:nats"}, "is not a port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := embedded.Start(tt.opts)
			if err == nil {
				s.Shutdown()
				t.Fatalf("Start() = nil; want it to say %q", tt.says)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Start() = %v; want it to say %q", err, tt.says)
			}
		})
	}
}

func TestStart_UnlocksFolderAfterFailure(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if s, err := embedded.Start(embedded.Options{Dir: dir, Listen: taken.Addr().String()}); err == nil {
		s.Shutdown()
		t.Fatal("Start() = nil; want a refusal of the port")
	}
	taken.Close()
	s, err := embedded.Start(embedded.Options{Dir: dir})
	if err != nil {
		t.Fatalf("Start() = %v", err)
	}
	s.Shutdown()
}
