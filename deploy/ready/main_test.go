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
		{"ready", http.StatusOK, ""},
		{"not ready, with the reason", http.StatusServiceUnavailable, "FAIL  broker: away"},
		{"another program listens there", http.StatusNotFound, "404"},
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
			answer, err := ready(server.Listener.Addr().String())
			if tt.says == "" && (err != nil || !strings.Contains(answer, "broker: away")) {
				t.Errorf("ready() = %q, %v; want the answer and nil", answer, err)
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
	if _, err := ready(":" + port); err != nil {
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
	if _, err := ready(l.Addr().String()); err == nil || !strings.Contains(err.Error(), "is it running?") {
		t.Errorf("ready() = %v; want it to ask whether the process runs", err)
	}
}
