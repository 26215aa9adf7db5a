//go:build faults

package pgclaims_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A process is killed with SIGKILL at each point of an attempt; the next one finds the effect or makes it.
func TestPromise5_Faults_EffectExactlyOnce(t *testing.T) {
	r := newFixture(t)
	points := []string{afterClaim, afterEffect, beforeCommit, duringCommit, afterCommit}
	var plans []stream.WorkerSpec
	for _, p := range points {
		plans = append(plans, worker(p, r.pool, func(context.Context, codat.Event[codat.Write]) error { return nil }).Spec())
	}
	srv := streamtest.New(t, plans...)
	post(t, srv.JS, "msg_1") // every worker gets it
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), "PGCLAIMS_KILL="+point, "PGCLAIMS_DSN="+r.DSN, "PGCLAIMS_NATS="+srv.URL)
			child.Dir = filepath.Dir(os.Args[0])
			out, err := child.CombinedOutput()
			if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
				t.Fatalf("the child ended with %v; want it killed\n%s", err, out)
			}
			var runs atomic.Int64
			start(t, srv.URL, worker(point, r.pool, func(ctx context.Context, e codat.Event[codat.Write]) error {
				runs.Add(1)
				_, err := effect(ctx, point, e.WebhookID)
				return err
			}))
			r.waitEnd(t, srv, point, "msg_1", claims.Done)
			if n := r.effects(point, "msg_1"); n != 1 {
				t.Errorf("%d effects; want exactly 1", n)
			}
			// What was committed is not tried again, and what was not is.
			switch n := runs.Load(); {
			case point == afterCommit && n != 0:
				t.Errorf("the handler ran %d times after the commit; want none", n)
			case point != afterCommit && point != duringCommit && n == 0:
				t.Error("the handler did not run again; the effect came from nowhere")
			}
		})
	}
}
