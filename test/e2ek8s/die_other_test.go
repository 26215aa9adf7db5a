//go:build e2e && !linux

package e2ek8s

import "syscall"

// dieWithParent does nothing: only Linux can tie a program's life to its parent's.
func dieWithParent() *syscall.SysProcAttr { return nil }
