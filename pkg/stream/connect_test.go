package stream_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestNATS_FlagsAndVariables(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NATS_URL", "nats://from.env")
	for _, v := range []string{"NATS_CREDS", "NATS_NKEY", "NATS_CA", "NATS_CERT", "NATS_KEY"} {
		t.Run(v, func(t *testing.T) {
			t.Setenv(v, file)
			var got struct{ stream.NATS }
			parser, err := kong.New(&got, kong.DefaultEnvars("HEADGATE"))
			if err != nil {
				t.Fatal(err)
			}
			args := []string{"--nats-url", "nats://from.flag"}
			want := stream.NATS{NATSURL: "nats://from.flag"}
			switch v {
			case "NATS_CREDS":
				want.NATSCreds = file
			case "NATS_NKEY":
				want.NATSNKey = file
			case "NATS_CA":
				want.NATSCA, want.NATSURL, args = file, "nats://from.env", nil
			case "NATS_CERT":
				want.NATSCert, want.NATSKey, args = file, file, append(args, "--nats-key", file)
			case "NATS_KEY":
				want.NATSCert, want.NATSKey, args = file, file, append(args, "--nats-cert", file)
			}
			if _, err := parser.Parse(args); err != nil {
				t.Fatalf("Parse(%q) = %v", args, err)
			}
			if got.NATS != want {
				t.Errorf("settings = %+v; want %+v", got.NATS, want)
			}
		})
	}
}

func TestConnect_RefusesInvalidSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const server = "nats://user:hunter2@127.0.0.1:1"
	tests := []struct {
		name     string
		settings stream.NATS
		process  string
		says     string
	}{
		{"no address", stream.NATS{}, "ingress", "--nats-url"},
		{"an address of commas", stream.NATS{NATSURL: ", "}, "ingress", "--nats-url"},
		{"an invalid address", stream.NATS{NATSURL: server + ",nats://user:hunter2@127.0.0.1:port"}, "ingress", "--nats-url"},
		{"an address with a password that is not encoded", stream.NATS{NATSURL: "nats://user:hunter2%zz@127.0.0.1:1"}, "ingress", "--nats-url"},
		{"a password with a slash", stream.NATS{NATSURL: "nats://user:hunter2/x@127.0.0.1:1"}, "ingress", "write / as %2F"},
		{"a password of digits and a slash", stream.NATS{NATSURL: "nats://user:1/hunter2@127.0.0.1:1"}, "ingress", "write / as %2F"},
		{"a password with a hash", stream.NATS{NATSURL: "nats://user:hunter2#x@127.0.0.1:1"}, "ingress", "# as %23"},
		{"a password of digits and a hash", stream.NATS{NATSURL: "nats://user:1#hunter2@127.0.0.1:1"}, "ingress", "# as %23"},
		{"a password with a question mark", stream.NATS{NATSURL: "user:hunter2?x@127.0.0.1:1"}, "ingress", "? as %3F"},
		{"a password of digits and a question mark", stream.NATS{NATSURL: "user:1?hunter2@127.0.0.1:1"}, "ingress", "? as %3F"},
		{"a fragment", stream.NATS{NATSURL: "nats://127.0.0.1:1#hunter2"}, "ingress", "must end after host and port"},
		{"an empty fragment", stream.NATS{NATSURL: "nats://127.0.0.1:1#"}, "ingress", "must end after host and port"},
		{"an address without a host", stream.NATS{NATSURL: "nats://:1"}, "ingress", "must be an address"},
		{"credentials that are not there", stream.NATS{NATSURL: server, NATSCreds: missing}, "ingress", "--nats-creds: open"},
		{"a seed that is not there", stream.NATS{NATSURL: server, NATSNKey: missing}, "ingress", "--nats-nkey: open"},
		{"an invalid seed", stream.NATS{NATSURL: server, NATSNKey: empty}, "ingress", "no nkey seed"},
		{"authorities that are not there", stream.NATS{NATSURL: server, NATSCA: missing}, "ingress", "--nats-ca: open"},
		{"invalid authorities", stream.NATS{NATSURL: server, NATSCA: empty}, "ingress", "root certificate"},
		{"a certificate that is not there", stream.NATS{NATSURL: server, NATSCert: missing, NATSKey: empty}, "ingress", "--nats-cert: open"},
		{"a key that is not there", stream.NATS{NATSURL: server, NATSCert: empty, NATSKey: missing}, "ingress", "--nats-key: open"},
		{"an invalid certificate", stream.NATS{NATSURL: server, NATSCert: empty, NATSKey: empty}, "ingress", "certificate"},
		{"a certificate without its key", stream.NATS{NATSURL: server, NATSCert: empty}, "ingress", "belong together"},
		{"two ways to log in", stream.NATS{NATSURL: server, NATSCreds: empty, NATSNKey: empty}, "ingress", "both set"},
		{"a name that is no token", stream.NATS{NATSURL: server}, "two words", "cannot be the name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.settings.Check(); tt.process == "ingress" && (err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hunter2")) {
				t.Errorf("Check() = %v; want it to say %q, and no password", err, tt.says)
			}
			nc, err := stream.Connect(t.Context(), tt.settings, tt.process, nil)
			if err == nil {
				nc.Close()
				t.Fatalf("Connect() = nil; want it to say %q", tt.says)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Connect() = %v; want it to say %q", err, tt.says)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("Connect() = %v: it says the password", err)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := stream.Connect(ctx, stream.NATS{NATSURL: server}, "ingress", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Connect() of a process that is ending = %v; want Canceled", err)
	}
}

func TestNATS_CheckReadsCredentials(t *testing.T) {
	t.Parallel()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	const token = "-----BEGIN NATS USER JWT-----\neyJ0.eyJ1.sig\n------END NATS USER JWT------\n"
	for _, tt := range []struct{ name, text, says string }{
		{"as they should be", token + "\n-----BEGIN USER NKEY SEED-----\n" + string(seed) + "\n------END USER NKEY SEED------\n", ""},
		{"nothing", "", "holds no JWT"},
		{"no seed", token, "holds no nkey seed"},
	} {
		file := filepath.Join(t.TempDir(), "creds")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := stream.NATS{NATSURL: "nats://127.0.0.1:1", NATSCreds: file}.Check()
		if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: Check() = %v; want it to say %q", tt.name, err, tt.says)
		}
	}
}

func TestConnect_WaitsForServer(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	s.Stop()
	logged, logs := observer.New(zap.InfoLevel)
	nc, err := stream.Connect(t.Context(), stream.NATS{NATSURL: s.URL}, "ingress", zap.New(logged))
	if err != nil {
		t.Fatalf("Connect() while the server is away = %v", err)
	}
	defer nc.Close()
	if err := nc.Publish("codat.events.x", nil); !errors.Is(err, nats.ErrReconnectBufExceeded) {
		t.Errorf("Publish() while the server is away = %v; want it to fail at once", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Bucket(within(t, patience), js, "CODAT_connections")
	if !errors.Is(err, nats.ErrReconnectBufExceeded) || strings.Contains(err.Error(), "buffer") || !strings.Contains(err.Error(), "not connected to NATS: no server") {
		t.Errorf("Bucket() while the server is away = %v; want it to say that there is no server", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := stream.Connected(ctx, nc); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "no server") {
		t.Errorf("Connected() while the server is away = %v; want Canceled, and that there is no server", err)
	}

	s.Start()
	if err := stream.Connected(within(t, patience), nc); err != nil {
		t.Fatalf("Connected() = %v", err)
	}
	if !strings.HasPrefix(nc.NewInbox(), "_INBOX_ingress.") {
		t.Errorf("NewInbox() = %s; want it to be private", nc.NewInbox())
	}
	streamtest.Wait(t, func() bool { return logs.FilterMessage("connected").Len() == 1 }, "the connection is logged")

	s.Restart()
	if err := stream.Connected(within(t, patience), nc); err != nil {
		t.Fatalf("Connected() after a restart = %v", err)
	}
	streamtest.Wait(t, func() bool {
		return logs.FilterMessage("disconnected").Len() > 0 || logs.FilterMessage("connected again").Len() > 0
	}, "the restart is logged")
	nc.Close()
	if err := stream.Connected(within(t, patience), nc); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("Connected() of a closed connection = %v; want ErrConnectionClosed", err)
	}
}

func TestConnect_WithNKey(t *testing.T) {
	t.Parallel()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	url, _ := streamtest.Configured(t, `authorization: { users: [ { nkey: "`+public+`" } ] }`)
	file := filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(file, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	nc, err := stream.Connect(t.Context(), stream.NATS{NATSURL: url, NATSNKey: file}, "ingress", nil)
	if err != nil {
		t.Fatalf("Connect() = %v", err)
	}
	defer nc.Close()
	if err := stream.Connected(within(t, patience), nc); err != nil {
		t.Errorf("Connected() = %v", err)
	}
}

// A user that the server refuses is not given up: secrets rotate.
func TestConnect_RetriesRefusedUser(t *testing.T) {
	t.Parallel()
	url, _ := streamtest.Configured(t, `authorization: { user: "u", password: "right" }`)
	logged, logs := observer.New(zap.InfoLevel)
	nc, err := stream.Connect(t.Context(), stream.NATS{NATSURL: strings.Replace(url, "nats://", "nats://u:hunter2@", 1)}, "ingress", zap.New(logged))
	if err != nil {
		t.Fatalf("Connect() = %v", err)
	}
	defer nc.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// nats.go forgets why when it tries again.
	streamtest.Wait(t, func() bool { return errors.Is(stream.Connected(ctx, nc), nats.ErrAuthorization) }, "Connected says that the user is refused")
	if nc.IsClosed() {
		t.Error("the connection is closed; want it to ask again")
	}
	for _, e := range logs.All() {
		if strings.Contains(e.Message, "hunter2") {
			t.Errorf("logged %q: it says the password", e.Message)
		}
	}
}
