package flood

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A Group is a cgroup with a memory limit and without swap: the kernel kills its process at the limit.
type Group struct {
	dir   string
	files groupFiles
}

// groupFiles are the names of a cgroup's files, which differ between the versions.
type groupFiles struct {
	root, limit, swap, events string
}

var versions = []groupFiles{
	{"/sys/fs/cgroup", "memory.max", "memory.swap.max", "memory.events"},
	{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control"},
}

// NewGroup makes a cgroup of version 2 or 1 with a limit in bytes. It returns an error where that needs other rights, or
// where the kernel does not limit memory by cgroups. Close the group.
func NewGroup(limit int64) (*Group, error) {
	var problems error
	for _, v := range versions {
		g, err := newGroup(v, limit)
		if err == nil {
			return g, nil
		}
		problems = errors.Join(problems, err)
	}
	return nil, fmt.Errorf("make a cgroup with a memory limit: %w", problems)
}

func newGroup(v groupFiles, limit int64) (*Group, error) {
	if _, err := os.Stat(filepath.Join(v.root, "cgroup.procs")); err != nil {
		return nil, err // the version is not mounted: a folder would be just a folder
	}
	dir, err := os.MkdirTemp(v.root, "headgate-")
	if err != nil {
		return nil, err
	}
	g := &Group{dir, v}
	err = g.write(v.limit, limit)
	if err == nil {
		swap := int64(0) // of version 2, without memory
		if strings.Contains(v.swap, "memsw") {
			swap = limit
		}
		if err = g.write(v.swap, swap); errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			err = nil // the kernel does not count swap
		}
	}
	if err == nil {
		_, err = g.Killed()
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// write writes a number to a file that the kernel has made. It makes no file.
func (g *Group) write(name string, n int64) error {
	file, err := os.OpenFile(filepath.Join(g.dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(strconv.FormatInt(n, 10))
	return errors.Join(err, file.Close())
}

// Command returns a command that runs a program in the group, under the process id of the command.
func (g *Group) Command(program string, args ...string) []string {
	return append([]string{"/bin/sh", "-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(g.dir, "cgroup.procs"), program}, args...)
}

// Killed returns the number of processes that the kernel has killed for the limit.
func (g *Group) Killed() (int, error) {
	text, err := os.ReadFile(filepath.Join(g.dir, g.files.events))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return strconv.Atoi(n)
		}
	}
	return 0, fmt.Errorf("%s has no oom_kill", g.files.events)
}

// Close removes the group. Its process must have ended.
func (g *Group) Close() error { return syscall.Rmdir(g.dir) }
