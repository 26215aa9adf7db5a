package console_test

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestAudit_RunsAndSaysWhatItRead(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes)
	for _, id := range []string{"msg_1", "msg_2"} {
		store(t, server.JS, stream.Stored{ID: id, Head: codat.Head{Type: "invoices.write.successful"}}, `{}`)
	}
	claim(t, server.JS, "writes", "msg_1", claims.Record{State: claims.Dead, Sequence: 1, Attempts: 3}) // without a dead letter
	c := newOperating(t, server.JS, operatorUser)
	must(t, "before", get(c, "/audit"), 200, "No audit was made since this process started.", "500,000")
	if w := send(c, "/audit"); w.Code != 303 || w.Header().Get("Location") != "/audit" {
		t.Fatalf("POST: %d to %q", w.Code, w.Header().Get("Location"))
	}
	waitFor(t, c, "/audit", "What it read")
	body := must(t, "after", get(c, "/audit"), 200, "exceptions</a>", "no-letter", `href="/events/1"`, `<a href="/events">2</a>`, "for ada", "Audit again", "headgate audit --secret-file")
	lacks(t, "after", body, "Refresh")
}

func TestAudit_SaysWhyItWasNotMade(t *testing.T) {
	t.Parallel()
	c := newOperating(t, streamtest.New(t).JS, operatorUser)
	send(c, "/audit")
	body := waitFor(t, c, "/audit", "was not made")
	if !strings.Contains(body, "no worker keeps its claims in a bucket") {
		t.Errorf("the page does not say why:\n%s", body)
	}
	must(t, "page", get(c, "/audit"), 200)
}

func TestAudit_LeavesOutClaimsElsewhere(t *testing.T) {
	t.Parallel()
	server := streamtest.New(t, writes, stream.WorkerSpec{Name: "billing", Types: []codat.Pattern{"read.completed"}})
	if err := server.JS.DeleteKeyValue(t.Context(), stream.Source(source).ClaimsBucket("billing")); err != nil {
		t.Fatal(err)
	}
	c := newOperating(t, server.JS, operatorUser)
	send(c, "/audit")
	waitFor(t, c, "/audit", "No exception", "billing, whose claims are in no bucket")
}
