package deploy_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/process"
)

// text is the text of a file in this folder, or beside it.
func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A new worker is run, scaled and watched on Kubernetes too.
func TestKubernetesRunsEveryProgram(t *testing.T) {
	folders, err := filepath.Glob("../cmd/worker-*")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		program := filepath.Base(folder)
		name := strings.TrimPrefix(program, "worker-")
		if !strings.Contains(text(t, "k8s/base/workers/"+name+"/kustomization.yaml"), "[name="+name+"]") {
			t.Errorf("k8s/base/workers/%s is for another worker", name)
		}
		for file, line := range map[string]string{
			"k8s/base/kustomization.yaml":                "  - workers/" + name,
			"k8s/overlays/dev/kustomization.yaml":        "name: headgate/" + program + ",",
			"k8s/overlays/production/kustomization.yaml": "name: headgate/" + program + ",",
			"monitoring/prometheus.yml":                  program,
		} {
			if !strings.Contains(text(t, file), line) {
				t.Errorf("%s has no %q", file, line)
			}
		}
	}
	if len(folders) == 0 {
		t.Error("there are no workers")
	}
}

func TestKubernetesSetsSettingsThatExist(t *testing.T) {
	err := filepath.WalkDir("k8s", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		for _, name := range regexp.MustCompile(`HEADGATE_[A-Z_]+`).FindAllString(text(t, path), -1) {
			if !slices.Contains(process.Known, name) {
				t.Errorf("%s sets %s, which no program reads", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The server in the manifests is the one that the tests run, with all of its configuration.
func TestKubernetesRunsTheTestedServer(t *testing.T) {
	version := regexp.MustCompile(`nats-io/nats-server/v2 v(\S+)`).FindStringSubmatch(text(t, "../go.mod"))
	if version == nil {
		t.Fatal("go.mod has no NATS server")
	}
	for file, line := range map[string]string{
		"k8s/overlays/dev/kustomization.yaml":        "name: nats, newTag: " + version[1] + "-alpine",
		"k8s/overlays/production/kustomization.yaml": "# " + version[1] + "-alpine",
		"k8s/nats-helm-values.yaml":                  "tag: " + version[1] + "-alpine",
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
		if !strings.Contains(text(t, "nats/kustomization.yaml"), filepath.Base(file)) {
			t.Errorf("nats/kustomization.yaml leaves out %s", filepath.Base(file))
		}
	}
}

// The chart makes a ConfigMap of its own, nats-config; ours must have another name, and be the one that is mounted.
func TestHelmMountsOurConfiguration(t *testing.T) {
	values := text(t, "k8s/nats-helm-values.yaml")
	made := regexp.MustCompile(`create configmap (\S+) --from-file=deploy/nats`).FindStringSubmatch(values)
	if made == nil || made[1] == "nats-config" || !strings.Contains(values, "configMap: { name: "+made[1]+" }") {
		t.Errorf("k8s/nats-helm-values.yaml makes the ConfigMap %q; want one of its own, and mounted", made)
	}
}
