// Command tools builds what make e2e-k8s runs, a control plane of Kubernetes and what plays its nodes, out of the Go
// modules beside it, each once, and prints the folder that has them. The folder is a cache and may be removed.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// tools are the programs by the module, a folder here, that has their versions.
var tools = []struct{ name, module, path string }{
	{"etcd", "etcd", "go.etcd.io/etcd/server/v3"},
	{"kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"},
	{"kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"},
	{"kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"},
	{"kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl"},
	{"kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"},
}

func main() {
	log.SetFlags(log.Ltime)
	if len(os.Args) != 2 {
		log.Fatal("usage: tools FOLDER, the one that has their modules")
	}
	folder, err := build(os.Args[1])
	if err != nil {
		log.Fatalf("make e2e-k8s has not all that it needs: %v\n"+
			"It builds with Go alone, for 15 minutes on 2 cores the first time, and needs the Go module proxy or its modules "+
			"in the module cache, 6 GB of disk and 3 GB of memory. What was compiled is kept: run it again to go on.", err)
	}
	fmt.Println(folder)
}

// build builds the tools that are not there yet.
func build(modules string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	key := sha256.New()
	fmt.Fprintln(key, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, tool := range tools {
		sums, err := os.ReadFile(filepath.Join(modules, tool.module, "go.sum"))
		if err != nil {
			return "", err
		}
		key.Write(sums)
	}
	folder := filepath.Join(cache, "headgate", fmt.Sprintf("e2e-k8s-%x", key.Sum(nil)[:6]))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	for i, tool := range tools {
		target := filepath.Join(folder, tool.name)
		if _, err := os.Stat(target); err == nil {
			continue
		}
		log.Printf("%d of %d: %s", i+1, len(tools), tool.name)
		if err := compile(filepath.Join(modules, tool.module), tool.path, target); err != nil {
			return "", fmt.Errorf("%s: %w", tool.name, err)
		}
	}
	return folder, nil
}

// compile builds a program, says now and then how far it is, and leaves nothing half done at the target.
func compile(module, path, target string) error {
	stamp, err := version(module)
	if err != nil {
		return err
	}
	half := target + ".half"
	cmd := exec.Command("go", "build", "-v", "-ldflags", "-s -w"+stamp, "-o", half, path)
	cmd.Dir, cmd.Env = module, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	said, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	began, next := time.Now(), 20*time.Second
	var lines []string
	for r := bufio.NewReader(said); ; {
		line, err := r.ReadString('\n')
		if err != nil { // the end
			break
		}
		lines = append(lines, line)
		if took := time.Since(began); took > next {
			next = took + 20*time.Second
			log.Printf("  %.0f s: %s", took.Seconds(), strings.TrimSpace(line))
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", path, err, strings.Join(lines[max(0, len(lines)-20):], ""))
	}
	log.Printf("  built in %.0f s", time.Since(began).Seconds())
	return os.Rename(half, target)
}

// version is what Kubernetes' own build stamps in, as flags of the linker: the programs say by it what they are, and
// judge by it whether they go together.
func version(module string) (flags string, err error) {
	text, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", err
	}
	const variable = " -X k8s.io/component-base/version."
	if v := regexp.MustCompile(`k8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)`).FindStringSubmatch(string(text)); v != nil {
		flags = variable + "gitVersion=" + v[1] + variable + "gitMajor=" + v[2] + variable + "gitMinor=" + v[3]
	}
	return flags, nil
}
