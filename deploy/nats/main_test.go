package nats_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// TestMain builds headgate, so that no test's time includes it, and sets the environment of the servers' configuration.
func TestMain(m *testing.M) {
	if _, err := program(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	folder, err := os.MkdirTemp("", "headgate-")
	if err == nil {
		certs, err = makeCertificates(folder)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for name, value := range map[string]string{
		"NATS_SERVER_NAME": "nats", "NATS_MAX_FILE_STORE": "8GB",
		"NATS_TLS_CA": certs.ca, "NATS_TLS_CERT": certs.server, "NATS_TLS_KEY": certs.serverKey,
	} {
		_ = os.Setenv(name, value)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(folder)
		if name, err := program(); err == nil {
			_ = os.RemoveAll(filepath.Dir(name))
		}
		os.Exit(code)
	}))
}
