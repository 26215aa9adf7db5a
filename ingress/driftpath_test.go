package ingress_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// Only what is verified and stored now is compared: a forgery, a duplicate and the quarantine make no series.
func TestIngress_ComparesStoredEventsWithTheCatalog(t *testing.T) {
	t.Parallel()
	k, other := newKey(t, "drift"), newKey(t, "another")
	g, _ := start(t, k)
	body := func(field string) string {
		return `{"eventType":"company.created","payload":{"id":"c-1","` + field + `":"v4lue"}}`
	}
	for i, one := range []struct {
		k    testKey
		id   string
		body string
		want int
	}{
		{other, "msg_0", body("forged"), http.StatusUnauthorized},
		{k, "msg_1", body("first"), http.StatusNoContent},
		{k, "msg_1", body("again"), http.StatusNoContent},
		{k, "msg.2", body("quarantined"), http.StatusNoContent},
		{k, "msg_3", body("last"), http.StatusNoContent},
	} {
		if got := send(t, post(g.url, one.k, one.id, one.body)).status; got != one.want {
			t.Fatalf("request %d: status %d; want %d", i, got, one.want)
		}
	}
	streamtest.Wait(t, func() bool { return g.value(t, "unknown_fields_total", "payload.last") == 1 }, "the last event is compared")
	if got := strings.Join(g.labels(t, "unknown_fields_total", "field"), " "); got != "payload.first payload.last" {
		t.Errorf("fields = %s; want payload.first and payload.last", got)
	}
	for _, line := range g.logs.All() {
		for _, value := range line.ContextMap() {
			if text, ok := value.(string); ok && strings.Contains(text, "v4lue") {
				t.Errorf("%q has a value of a body: %s", line.Message, text)
			}
		}
	}
}
