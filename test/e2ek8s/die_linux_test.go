//go:build e2e && linux

package e2ek8s

import "syscall"

// dieWithParent has a program killed when this process ends without its cleanups, as at a test's time-out.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
