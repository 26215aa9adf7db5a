//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// boot starts systemd in a container as on a machine: mounts propagate, and its own control groups can be written.
const boot = `mount --make-rshared / &&
for m in $(grep -o ' /sys/fs/cgroup[^ ]*' /proc/mounts); do mount -o remount,bind,rw $m; done
exec /lib/systemd/systemd`

// machine is a container in which systemd is process 1.
type machine struct {
	*engine
	name string
}

// bootDebian starts a Debian of this machine's release with systemd and curl, and with what docs/serve.md needs of the
// repository in /root. It has all capabilities but those that could change this machine.
func bootDebian(ctx context.Context, t *testing.T) *machine {
	t.Helper()
	m := &machine{&engine{t: t, ctx: ctx, folder: t.TempDir(), env: append(os.Environ(), "CGO_ENABLED=0")}, project + "-systemd"}
	clear := func() {
		_, _ = m.try("docker", "rm", "-f", m.name) // what a run that was killed has left may be there or not
		_, _ = m.try("docker", "rmi", "-f", m.name)
	}
	clear()
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("docker", "exec", m.name, "journalctl", "--no-pager", "-u", "headgate", "-n", "40").CombinedOutput()
			t.Logf("journal:\n%s", out)
		}
		m.ctx = context.Background() // that of the test has ended
		clear()
	})
	root, binary := m.path("root.tar"), m.path("headgate")
	m.run("sh", "-c", `. /etc/os-release && mmdebstrap -q --variant=essential --include=systemd,curl \
		--aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		"$VERSION_CODENAME" `+root)
	m.docker("import", root, m.name)
	build := exec.CommandContext(ctx, "go", "build", "-pgo=off", "-trimpath", "-ldflags", "-s -w", "-o", binary, "../../cmd/headgate")
	build.Env = m.env
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	m.docker("run", "-d", "--name", m.name, "--network", "none", "--cgroupns", "private", "-e", "container=docker",
		"--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--cap-drop", "SYS_MODULE", "--cap-drop", "SYS_BOOT", "--cap-drop", "SYS_TIME",
		"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--tmpfs", "/run:mode=755", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec,mode=1777", m.name, "sh", "-c", boot)
	unit, err := filepath.Abs("../../deploy/serve/headgate.service")
	if err != nil {
		t.Fatal(err)
	}
	m.wait("systemd has started", func() bool {
		out, _ := m.try("docker", "exec", m.name, "systemctl", "is-system-running")
		return strings.HasSuffix(out, "running") || strings.HasSuffix(out, "degraded")
	})
	m.sh("mkdir -p /root/bin /root/deploy/serve")
	m.docker("cp", binary, m.name+":/root/bin/headgate")
	m.docker("cp", unit, m.name+":/root/deploy/serve/headgate.service")
	return m
}

// sh runs commands in the machine, in /root, that have to succeed.
func (m *machine) sh(commands string) string {
	m.t.Helper()
	return m.docker("exec", "-w", "/root", m.name, "sh", "-ec", commands)
}

// typed runs a command in the machine, to whose standard input somebody types a text and Ctrl-D.
func (m *machine) typed(text, command string) {
	m.t.Helper()
	cmd := exec.CommandContext(m.ctx, "docker", "exec", "-i", "-w", "/root", m.name, "sh", "-ec", command)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// shows is what systemd says of a property of the unit.
func (m *machine) shows(property string) string {
	m.t.Helper()
	return m.sh("systemctl show --value -p " + property + " headgate")
}

// ready waits until headgate serve is ready in a process that systemd has started restarts times by itself.
func (m *machine) ready(restarts string) {
	m.t.Helper()
	m.wait("headgate serve is ready", func() bool {
		_, err := m.try("docker", "exec", m.name, "curl", "-sf", "http://127.0.0.1:9090/readyz")
		return err == nil && m.shows("NRestarts") == restarts
	})
}

// The unit of deploy/serve, installed by the commands at its head, keeps its promises under systemd: the process is ready and
// may do nothing beyond its task, its data outlives restarts and a crash, a stop is clean, and wrong settings end it for good.
func TestServe_UnderSystemd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	m := bootDebian(ctx, t)
	unit := m.sh("cat deploy/serve/headgate.service")
	installed := 0
	for line := range strings.Lines(unit) {
		command, ok := strings.CutPrefix(line, "#   ")
		if !ok {
			continue
		}
		installed++
		m.typed("whsec_aGVhZGdhdGUtZTJlLXN5c3RlbWQtbWFjaGluZQ==\n", command)
	}
	if installed != 4 {
		t.Fatalf("the unit's head has %d commands; want the 4 that install it", installed)
	}
	if out := m.sh("systemd-analyze verify headgate.service 2>&1"); out != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	m.sh("systemd-analyze security --threshold=20 --no-pager headgate") // 2.0 of 10; systemd calls up to 4.9 OK
	m.ready("0")

	status := m.sh("cat /proc/$(systemctl show --value -p MainPID headgate)/status")
	for _, line := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, "\n"+line) {
			t.Errorf("the process has no %q:\n%s", line, status)
		}
	}
	if strings.Contains(status, "\nUid:\t0\t") {
		t.Error("the process is root's")
	}

	const send, audit = "headgate send connection.connected --secret-file /etc/headgate/key", "headgate audit"
	m.sh(send)
	m.sh("systemctl restart headgate")
	m.ready("0")
	m.sh(send)
	m.sh("systemctl kill -s KILL headgate")
	m.ready("1")
	m.wait("both events are done", func() bool {
		out, err := m.try("docker", "exec", m.name, "headgate", "audit")
		return err == nil && strings.Contains(out, "connections: 2 events: 2 done")
	})
	if out := m.sh(audit); !strings.Contains(out, "2 events stored, 0 quarantined, 3 workers, 0 exceptions") {
		t.Errorf("after a restart and a crash the audit says\n%s", out)
	}

	m.sh("systemctl stop headgate")
	if result, code := m.shows("Result"), m.shows("ExecMainStatus"); result != "success" || code != "0" {
		t.Errorf("the stop ended with %s, exit code %s; want success and 0", result, code)
	}
	m.typed("HEADGATE_MAX_BYTES=0\n", "cat >/etc/headgate/environment")
	m.sh("systemctl start headgate || true") // the program has started before it refuses its settings
	m.wait("systemd sees the end of the process", func() bool { return m.shows("ActiveState") == "failed" })
	if code, restarts := m.shows("ExecMainStatus"), m.shows("NRestarts"); code != "2" || restarts != "0" {
		t.Errorf("wrong settings ended it with %s, %s restarts; want 2, and none", code, restarts)
	}
}
