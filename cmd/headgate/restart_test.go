//go:build faults

package main

import (
	"testing"
)

func TestTail_Faults_ContinuesAfterRestartOfServer(t *testing.T) {
	t.Parallel()
	r := newBroker(t)
	c := r.tail()
	r.event("company.created", "msg_1")
	c.out.says(t, "msg_1")
	r.Restart()
	r.event("company.created", "msg_2")
	c.out.says(t, "msg_2")
}
