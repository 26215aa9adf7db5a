package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/workers/builtin"
)

func TestKubernetes_HasAFolderForEveryWorker(t *testing.T) {
	var names []string
	for _, w := range builtin.Workers() {
		names = append(names, w.Spec.Name)
		file := "deploy/k8s/base/workers/" + w.Spec.Name + "/kustomization.yaml"
		if !strings.Contains(text(t, file), "[name="+w.Spec.Name+"]") {
			t.Errorf("%s is of another worker: its ConfigMap must have name=%s", file, w.Spec.Name)
		}
	}
	folders, err := os.ReadDir("k8s/base/workers")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		if !slices.Contains(names, f.Name()) {
			t.Errorf("deploy/k8s/base/workers/%s is of no worker in workers/builtin", f.Name())
		}
	}
}

// The server in the manifests is the one that the tests run, with all of its configuration.
func TestKubernetes_RunsTheServerThatIsTested(t *testing.T) {
	version := regexp.MustCompile(`nats-io/nats-server/v2 v(\S+)`).FindStringSubmatch(text(t, "go.mod"))
	if version == nil {
		t.Fatal("go.mod has no NATS server")
	}
	for file, line := range map[string]string{
		"deploy/k8s/overlays/dev/kustomization.yaml":        "name: nats, newTag: " + version[1] + "-alpine",
		"deploy/k8s/overlays/production/kustomization.yaml": "# " + version[1] + "-alpine",
		"deploy/k8s/nats-helm-values.yaml":                  "tag: " + version[1] + "-alpine",
	} {
		if !strings.Contains(text(t, file), line) {
			t.Errorf("%s has no %q", file, line)
		}
	}
	files, err := filepath.Glob("nats/*.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !strings.Contains(text(t, "deploy/nats/kustomization.yaml"), filepath.Base(file)) {
			t.Errorf("deploy/nats/kustomization.yaml does not list %s: run make generate", filepath.Base(file))
		}
	}
}

// The chart makes a ConfigMap of its own, nats-config; ours has another name, and is the one that is mounted.
func TestHelm_MountsOurConfiguration(t *testing.T) {
	values := text(t, "deploy/k8s/nats-helm-values.yaml")
	made := regexp.MustCompile(`create configmap (\S+) --from-file=deploy/nats`).FindStringSubmatch(values)
	if made == nil || made[1] == "nats-config" || !strings.Contains(values, "configMap: { name: "+made[1]+" }") {
		t.Errorf("deploy/k8s/nats-helm-values.yaml makes the ConfigMap %q; want one of its own, and mounted", made)
	}
}
