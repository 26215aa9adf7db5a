package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A real ingress refuses every forgery, and a receiver that verifies nothing is told from it.
func TestSendForge_TellsAReceiverThatVerifies(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	dev := spawn(t, folder, append([]string{"dev"}, anyPorts...)...)
	dev.out.says(t, "accepted")
	to := at(t, dev.out.String(), "webhook")
	out := headgate(t, 0, "send", "company.created", "--forge", "--to", to, "--data", folder+"/.headgate").out.String()
	if n := strings.Count(out, "\n"); n != len(forgeries) {
		t.Errorf("%d lines; want one for each forgery:\n%s", n, out)
	}
	for line := range strings.Lines(out) {
		contains(t, line, "401  ", ": refused")
	}

	trusting := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer trusting.Close()
	c := headgate(t, 1, "send", "company.created", "--forge", "--to", trusting.URL, "--secret", secret)
	contains(t, c.out.String(), "200  signed with another key", "ACCEPTED")
	contains(t, c.err.String(), "forged requests of", "does not verify signatures")
	absent := httptest.NewServer(http.NotFoundHandler())
	defer absent.Close()
	contains(t, headgate(t, 2, "send", "company.created", "--forge", "--to", absent.URL, "--secret", secret).err.String(), "no webhook at this path")
	contains(t, headgate(t, 2, "send", "company.created", "--forge", "--id", "x", "--secret", secret).err.String(), "leave out --id")
}
