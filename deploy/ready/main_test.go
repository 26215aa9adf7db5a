package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestReady(t *testing.T) {
	tests := []struct {
		name   string
		status int
		says   string // "" when it is ready
	}{
		{"it is ready", http.StatusOK, ""},
		{"it is not, and says why", http.StatusServiceUnavailable, "FAIL  broker: away"},
		{"something else listens there", http.StatusNotFound, "404"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != "/readyz" {
					t.Errorf("it asks %s %s; want GET /readyz", r.Method, r.URL.Path)
				}
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte("not ready\nFAIL  broker: away\n"))
			}))
			defer server.Close()
			err := ready(server.Listener.Addr().String())
			if tt.says == "" && err != nil {
				t.Errorf("ready() = %v; want nil", err)
			}
			if tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("ready() = %v; want %q in it", err, tt.says)
			}
		})
	}
}

func TestReadyFindsItWithoutAHost(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := ready(":" + port); err != nil {
		t.Errorf("ready(:port) = %v; want nil", err)
	}
}

func TestReadySaysThatNothingListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ready(l.Addr().String()); err == nil || !strings.Contains(err.Error(), "is it running?") {
		t.Errorf("ready() = %v; want it to ask whether the process runs", err)
	}
}
