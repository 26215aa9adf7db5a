//go:build faults && linux

package faults

import "syscall"

// dieWithParent has a program killed when this process ends without its cleanups, as at a test's time-out.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
