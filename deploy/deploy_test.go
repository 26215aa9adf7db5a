// Package deploy_test checks that what runs Headgate knows every program that there is.
package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/headgate/headgate/workers/builtin"
	"github.com/headgate/headgate/workers/relay"
)

// text returns the text of a file of the repository.
func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDockerfile_HasATargetForEveryProgram(t *testing.T) {
	dockerfile := text(t, "Dockerfile")
	for _, line := range []string{
		" AS ingress\n", "COPY --from=build /out/ingress /ingress\n", `ENTRYPOINT ["/ingress"]`,
		" AS headgate\n", "COPY --from=build /out/headgate /headgate\n", `ENTRYPOINT ["/headgate"]`,
		" AS worker\nARG WORKER\n", "COPY --from=build /out/worker-${WORKER} /worker\n", `ENTRYPOINT ["/worker"]`,
	} {
		if !strings.Contains(dockerfile, line) {
			t.Errorf("the Dockerfile has no %q", line)
		}
	}
}

// An image builds without a network except for its bases and modules, and runs as a user by number that is not root.
func TestDockerfile_NeedsNoNetworkAndNoRoot(t *testing.T) {
	dockerfile := text(t, "Dockerfile")
	for what, wrong := range map[string]string{
		"a syntax line, for which a builder asks a registry": `(?m)^#\s*syntax=`,
		"a base without a version":                           `:latest|(?m)^ARG \w+_IMAGE=[^:@\s]+$`,
		"a package manager":                                  `(?m)\b(apt|apt-get|apk)\b (install|add|update)`,
		"something that only BuildKit knows":                 `--mount|<<EOF|--link|--chmod`,
	} {
		if found := regexp.MustCompile(wrong).FindString(dockerfile); found != "" {
			t.Errorf("the Dockerfile has %s: %q", what, found)
		}
	}
	if !regexp.MustCompile(`(?m)^USER [1-9][0-9]*:[1-9][0-9]*$`).MatchString(dockerfile) {
		t.Error("the Dockerfile has no line USER with the number of a user that is not root")
	}
}

// A service is what these tests read of a service in docker-compose.yml.
type service struct {
	Image string
	Build struct {
		Target string
		Args   map[string]string
	}
	Volumes  []string
	Networks any // names, or settings by name
}

// aliases returns the further names that a service has in a network.
func (s service) aliases(network string) []string {
	networks, _ := s.Networks.(map[string]any)
	settings, _ := networks[network].(map[string]any)
	all, _ := settings["aliases"].([]any)
	var names []string
	for _, name := range all {
		names = append(names, fmt.Sprint(name))
	}
	return names
}

func services(t *testing.T) map[string]service {
	t.Helper()
	return servicesIn(t, "docker-compose.yml")
}

func servicesIn(t *testing.T, name string) map[string]service {
	t.Helper()
	var file struct{ Services map[string]service }
	// A key beside a merge that has it too stands twice for this parser.
	err := yaml.UnmarshalWithOptions([]byte(text(t, name)), &file, yaml.AllowDuplicateMapKey())
	if err != nil {
		t.Fatal(err)
	}
	return file.Services
}

func TestCompose_RunsEveryProgram(t *testing.T) {
	all := services(t)
	for _, name := range []string{"ingress", "headgate"} {
		if image := all[name].Image; image != "headgate/"+name+":${VERSION:-dev}" {
			t.Errorf("the service %s runs the image %q", name, image)
		}
	}
	for _, w := range builtin.Workers() {
		s, ok := all[w.Program()]
		if !ok {
			t.Errorf("docker-compose.yml has no service %s: run make generate", w.Program())
			continue
		}
		if s.Image != "headgate/"+w.Program()+":${VERSION:-dev}" || s.Build.Target != "worker" || s.Build.Args["WORKER"] != w.Spec.Name {
			t.Errorf("the service %s runs the image %q, built as %+v", w.Program(), s.Image, s.Build)
		}
		if key := "./deploy/compose/secrets/" + w.Spec.Name + ":/run/secrets/nats:ro"; !slices.Contains(s.Volumes, key) {
			t.Errorf("the service %s has the volumes %q; want its own key %s", w.Program(), s.Volumes, key)
		}
	}
}

// The relay's file is for use beside docker-compose.yml, and its route is one of the routes.
func TestRelayCompose_RunsARoute(t *testing.T) {
	for name, s := range servicesIn(t, "deploy/relay/compose.yml") {
		route, ok := strings.CutPrefix(name, "worker-relay-")
		if !ok || s.Image != "headgate/worker-relay:${VERSION:-dev}" || s.Build.Target != "worker" || s.Build.Args["WORKER"] != "relay" {
			t.Errorf("the service %s runs the image %q, built as %+v", name, s.Image, s.Build)
		}
		if key := "./deploy/compose/secrets/relay-" + route + ":/run/secrets/relay:ro"; !slices.Contains(s.Volumes, key) {
			t.Errorf("the service %s has the volumes %q; want its own key %s", name, s.Volumes, key)
		}
		if !slices.Contains(s.aliases("broker"), "workers") {
			t.Errorf("Prometheus does not find the service %s", name)
		}
	}
	routes, err := relay.ReadRoutes("relay/routes.yml")
	if err != nil || len(routes) != 1 || routes[0].Name != "example" {
		t.Errorf("the routes are %v, %v; want example", routes, err)
	}
	if text(t, "deploy/k8s/examples/relay/routes.yml") != text(t, "deploy/relay/routes.yml") {
		t.Error("the routes of the example on Kubernetes are others than those of Compose")
	}
}

func TestCompose_NamesVersions(t *testing.T) {
	compose := text(t, "docker-compose.yml")
	for name, s := range services(t) {
		if !regexp.MustCompile(`:v?[0-9][^/]*}?$|:\$\{VERSION:-dev}$`).MatchString(s.Image) {
			t.Errorf("the image %s of the service %s has no version", s.Image, name)
		}
	}
	// docker-compose 1.29 refuses a name at the top, and ignores limits under deploy.
	if found := regexp.MustCompile(`(?m)^name:|^\s+deploy:$`).FindString(compose); found != "" {
		t.Errorf("docker-compose.yml has %q, which docker-compose 1.29 does not take", found)
	}
}

// Prometheus finds programs by the name of their service, and workers by the name that all of them have.
func TestPrometheus_ScrapesEveryProgram(t *testing.T) {
	var config struct {
		Jobs []struct {
			DNS []struct{ Names []string } `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(text(t, "deploy/monitoring/prometheus.yml")), &config); err != nil {
		t.Fatal(err)
	}
	names := config.Jobs[0].DNS[0].Names
	for _, name := range []string{"ingress", "watch", "console"} {
		if !slices.Contains(names, name) {
			t.Errorf("Prometheus scrapes %q, and not %s", names, name)
		}
	}
	all := services(t)
	for _, w := range builtin.Workers() {
		aliases := all[w.Program()].aliases("broker")
		if !slices.ContainsFunc(aliases, func(a string) bool { return slices.Contains(names, a) }) {
			t.Errorf("the service %s has the names %q; Prometheus scrapes %q", w.Program(), aliases, names)
		}
	}
}

func TestREADME_NamesEveryWorker(t *testing.T) {
	for _, w := range builtin.Workers() {
		if !strings.Contains(text(t, "README.md"), "`"+w.Program()+"`") {
			t.Errorf("README.md does not name %s: run make generate", w.Program())
		}
	}
}
