//go:build faults

package operator

import (
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A server that is away while a company is erased is named, and has nothing of the company when it is back and leads.
func TestErase_Faults_NamesAServerThatIsAway(t *testing.T) {
	t.Parallel()
	c := streamtest.NewCluster(t)
	o, err := New(c.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	for _, id := range []string{"msg_1", "msg_2"} {
		m, err := source.Message(stream.Stored{ID: id, Head: codat.Head{Type: "company.created", Company: acme}, Received: time.Now()}, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	leader := c.LeaderOf(source.Stream())
	away := (leader + 1) % 3
	c.MoveTo(c.NC, leader)
	c.Kill(away)
	var r EraseResult
	streamtest.Wait(t, func() bool { // the streams that the other server led elect another leader
		e, err := o.NewErasure(t.Context(), EraseOptions{Company: acme, Rate: 100})
		if err == nil {
			r, err = e.Run(t.Context())
		}
		return err == nil
	}, "the company is erased")
	if want := c.NodeName(away) + " " + source.Stream(); !r.Verified || !slices.Contains(r.Behind, want) {
		t.Errorf("Run = %+v; want %q behind", r, want)
	}
	c.Restart(away)
	c.WaitReady()
	streamtest.Wait(t, func() bool {
		l, err := o.StepDown(t.Context(), source.Stream())
		return err == nil && l.Now == c.NodeName(away)
	}, "the server that was away leads")
	e, err := o.NewErasure(t.Context(), EraseOptions{Company: acme, Rate: 100})
	if err != nil || e.Result().Found != 0 {
		t.Errorf("NewErasure = %+v, %v; want nothing found", e.Result(), err)
	}
}
