package nats_test

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if name, err := program(); err == nil {
			_ = os.RemoveAll(filepath.Dir(name)) // a folder of the system's for such
		}
		os.Exit(code)
	}))
}
