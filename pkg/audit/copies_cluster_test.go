//go:build faults

package audit_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// The audit is connected to one server, and any of three has the damage.
func TestFaults_AuditFindsFlippedBitOnAnyServer(t *testing.T) {
	t.Parallel()
	c := streamtest.NewCluster(t)
	var bodies []string
	for node := range streamtest.Nodes {
		bodies = append(bodies, fmt.Sprint("damaged on node ", node))
	}
	last := storeBodies(t, c.JS, append(bodies, "last")...)
	var want []audit.Exception
	for node, body := range bodies {
		c.Damage(node, source.Stream(), `{"body":"`+body+`"}`)
		want = append(want, audit.Exception{
			Kind: audit.Unreadable, Stream: source.Stream(), Server: c.NodeName(node), Sequence: last - streamtest.Nodes + uint64(node),
		})
		for range 5 {
			report := auditAllCopies(t, c)
			if found := unreadable(report); !slices.Equal(found, want) {
				t.Errorf("with damage on %d nodes the audit finds %+v; want %+v", node+1, found, want)
			}
			if report.Stored != streamtest.Nodes+1 { // whichever server answered
				t.Errorf("with damage on %d nodes the audit counts %d events; want %d", node+1, report.Stored, streamtest.Nodes+1)
			}
		}
	}
}

// Of a record whose length is damaged in an earlier block, a server loses those behind it in this block too, and counts them as
// deleted.
func TestFaults_AuditFindsDamagedLengthOnAnyServer(t *testing.T) {
	t.Parallel()
	c := streamtest.NewCluster(t)
	damaged := storeBodies(t, c.JS, "damaged")
	storeBlock(t, c.JS)
	storeBodies(t, c.JS, "last")
	for node := range streamtest.Nodes {
		c.DamageLength(node, source.Stream(), `{"body":"damaged"}`)
		for range 3 {
			found := unreadable(auditAllCopies(t, c))
			if len(found) < 2 || found[0].Sequence != damaged || found[0].Server != c.NodeName(node) || found[len(found)-1].Server != c.NodeName(node) {
				t.Errorf("the audit finds %+v; want sequence %d and those behind it on %s", found, damaged, c.NodeName(node))
			}
		}
		c.Wipe(node) // the runbook
		if found := unreadable(auditAllCopies(t, c)); len(found) > 0 {
			t.Errorf("after the runbook the audit finds %+v", found)
		}
	}
}

// auditAllCopies audits when the stream has a leader and all copies can be read: a server answers for its copy some time
// after it has caught up.
func auditAllCopies(t *testing.T, c *streamtest.Cluster) (report audit.Report) {
	t.Helper()
	for late := time.Now().Add(3 * time.Minute); ; {
		var err error
		report, err = audit.Audit{JS: c.JS, Source: source, Settle: 50 * time.Millisecond}.Run(t.Context())
		if err == nil && len(report.Copies.Servers) == streamtest.Nodes {
			return report
		}
		if time.Now().After(late) {
			t.Fatalf("the copies of %v are read, and not of all: %v", report.Copies.Servers, err)
		}
	}
}

// The runbook "A disk is damaged": the server is emptied, and gets its copy from the others.
func TestFaults_EmptiedServerHasWholeCopyAgain(t *testing.T) {
	t.Parallel()
	c := streamtest.NewCluster(t)
	storeBodies(t, c.JS, "first", "damaged", "last")
	node := c.LeaderOf(source.Stream())
	c.Damage(node, source.Stream(), `{"body":"damaged"}`)
	if found := unreadable(auditAllCopies(t, c)); len(found) != 1 || found[0].Server != c.NodeName(node) {
		t.Fatalf("the audit finds %+v; want one message on %s", found, c.NodeName(node))
	}
	c.Wipe(node)
	report := auditAllCopies(t, c)
	if len(report.Exceptions) > 0 || report.Copies.Messages != 3 {
		t.Errorf("after the runbook the audit finds %+v and reads %d messages; want none and 3", report.Exceptions, report.Copies.Messages)
	}
}
