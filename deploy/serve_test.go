package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestServe_ComposeHasOneServiceAndOneVolume(t *testing.T) {
	var file struct {
		Services map[string]struct {
			Image, User string
			Command     []string
			Volumes     []string
			ReadOnly    bool     `yaml:"read_only"`
			CapDrop     []string `yaml:"cap_drop"`
			Build       struct{ Target string }
		}
		Volumes map[string]any
	}
	if err := yaml.Unmarshal([]byte(text(t, "deploy/serve/compose.yml")), &file); err != nil {
		t.Fatal(err)
	}
	s := file.Services["headgate"]
	if len(file.Services) != 1 || len(file.Volumes) != 1 {
		t.Errorf("%d services, %d volumes; want one of each", len(file.Services), len(file.Volumes))
	}
	if s.Build.Target != "headgate" || strings.Join(s.Command, " ") != "serve" || !s.ReadOnly || strings.Join(s.CapDrop, " ") != "ALL" {
		t.Errorf("the service is %+v; want headgate serve, read-only and without capabilities", s)
	}
	// The container reads the key as another user. What is mounted is below a folder that only the user of the machine opens.
	if !slices.Contains(s.Volumes, "./secrets/webhook:/run/secrets/webhook:ro") {
		t.Errorf("the volumes are %q; want the folder of the key in that of the secrets", s.Volumes)
	}
	// A volume that is mounted on a folder of the image gets its owner; the process is not root.
	if !strings.HasPrefix(strings.Join(s.Volumes, " "), "data:/var/lib/headgate ") ||
		!strings.Contains(text(t, "Dockerfile"), "COPY --from=build --chown=65532:65532 /lib-headgate/ /var/lib/\n") {
		t.Errorf("the volumes are %q; want data on the folder that the image has for its user", s.Volumes)
	}
}

func TestServe_ComposeIsTakenByDockerCompose(t *testing.T) {
	command := []string{"docker-compose"}
	if _, err := exec.LookPath(command[0]); err != nil {
		if exec.Command("docker", "compose", "version").Run() != nil {
			t.Skip("there is no Compose on this machine")
		}
		command = []string{"docker", "compose"}
	}
	args := append(command[1:], "-f", "serve/compose.yml", "config", "-q")
	if out, err := exec.Command(command[0], args...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// systemd takes the unit, and finds little that the process could do beyond its task.
func TestServe_UnitIsTakenBySystemd(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("there is no systemd on this machine")
	}
	self, err := os.Executable() // the program must exist
	if err != nil {
		t.Fatal(err)
	}
	unit := strings.Replace(text(t, "deploy/serve/headgate.service"), "ExecStart=/usr/local/bin/headgate ", "ExecStart="+self+" ", 1)
	name := filepath.Join(t.TempDir(), "headgate.service")
	if err := os.WriteFile(name, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", name).CombinedOutput()
	if err != nil || strings.Contains(string(out), "headgate.service") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// 20 is an exposure of 2.0 of 10; systemd calls up to 4.9 OK.
	if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", name).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// The unit and the container have the time that a stop can take, and do not start again with wrong settings.
func TestServe_UnitWaitsForTheEnd(t *testing.T) {
	unit := text(t, "deploy/serve/headgate.service")
	for _, line := range []string{"TimeoutStopSec=90", "RestartPreventExitStatus=2", "StateDirectory=headgate", "DynamicUser=yes"} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("the unit has no %s", line)
		}
	}
	if !strings.Contains(text(t, "deploy/serve/compose.yml"), "stop_grace_period: 90s") {
		t.Error("the container has another time to stop than the unit")
	}
}
