// Package deploy_test keeps what runs Headgate in step with what there is to run.
package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/process"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// programs are the folders of cmd.
func programs(t *testing.T) []string {
	t.Helper()
	folders, err := os.ReadDir("../cmd")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range folders {
		names = append(names, f.Name())
	}
	return names
}

func TestEachProgramHasAnImage(t *testing.T) {
	dockerfile := read(t, "Dockerfile")
	for _, name := range programs(t) {
		for _, line := range []string{
			" AS " + name + "\n",
			"COPY --from=build /out/" + name + " /" + name + "\n",
			`ENTRYPOINT ["/` + name + `"]`,
		} {
			if !strings.Contains(dockerfile, line) {
				t.Errorf("the Dockerfile has no %q", strings.TrimSpace(line))
			}
		}
	}
}

// An image must build without a network but for its bases and modules, run as a number that is not root, and say of
// what it is made.
func TestDockerfile(t *testing.T) {
	dockerfile := read(t, "Dockerfile")
	for what, wrong := range map[string]string{
		"a syntax line, for which a builder asks a registry": `(?m)^#\s*syntax=`,
		"a base that changes by itself":                      `:latest|(?m)^ARG \w+_IMAGE=[^:@\s]+$`,
		"a package manager":                                  `(?m)\b(apt|apt-get|apk)\b (install|add|update)`,
		"something that only BuildKit knows":                 `--mount|<<EOF|--link|--chmod`,
	} {
		if found := regexp.MustCompile(wrong).FindString(dockerfile); found != "" {
			t.Errorf("the Dockerfile has %s: %q", what, found)
		}
	}
	if !regexp.MustCompile(`(?m)^USER [1-9][0-9]*:[1-9][0-9]*$`).MatchString(dockerfile) {
		t.Error("the Dockerfile names no user by a number that is not root's")
	}
}

func TestComposeRunsEveryProgram(t *testing.T) {
	compose := read(t, "docker-compose.yml")
	for _, name := range programs(t) {
		for _, line := range []string{"\n  " + name + ":\n", "target: " + name + "}", "image: headgate/" + name + ":${VERSION:-dev}"} {
			if !strings.Contains(compose, line) {
				t.Errorf("docker-compose.yml has no %q", strings.TrimSpace(line))
			}
		}
	}
}

func TestComposeNamesVersionsAndSettingsThatExist(t *testing.T) {
	compose := read(t, "docker-compose.yml")
	for _, m := range regexp.MustCompile(`(?m)^\s+image: (\S+)$`).FindAllStringSubmatch(compose, -1) {
		if image := m[1]; !regexp.MustCompile(`:v?[0-9][^/]*}?$|:\$\{VERSION:-dev}$`).MatchString(image) {
			t.Errorf("the image %s names no version", image)
		}
	}
	for _, name := range regexp.MustCompile(`HEADGATE_[A-Z_]+`).FindAllString(compose, -1) {
		if !slices.Contains(process.Known, name) {
			t.Errorf("docker-compose.yml sets %s, which no program reads", name)
		}
	}
	// docker-compose 1.29 knows no name at the top, and passes over limits under deploy.
	if found := regexp.MustCompile(`(?m)^name:|^\s+deploy:$`).FindString(compose); found != "" {
		t.Errorf("docker-compose.yml has %q, which docker-compose 1.29 does not take", found)
	}
}
