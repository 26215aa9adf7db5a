package deploy_test

import (
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
