//go:build e2e

// Package e2ek8s applies deploy/k8s to a real control plane of Kubernetes: etcd, the API server, the controllers and
// the scheduler, as processes of this machine on loopback, without Docker. kwok plays the nodes and says that pods run,
// so what is seen is all that Kubernetes itself decides, and nothing of images, probes or networks. It is run by
// make e2e-k8s.
package e2ek8s

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var tools = flag.String("tools", "", "the folder of Kubernetes' programs, as test/e2ek8s/tools prints it")

// A cluster is a control plane, and a folder with a copy of deploy, where commands run.
type cluster struct {
	t      *testing.T
	ctx    context.Context
	folder string
	env    []string
}

// newCluster starts a control plane, which ends with the test.
func newCluster(ctx context.Context, t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, ctx: ctx, folder: t.TempDir()}
	if *tools == "" {
		t.Fatal("it needs Kubernetes' programs: run it by make e2e-k8s")
	}
	if err := os.CopyFS(c.path("deploy"), os.DirFS("../../deploy")); err != nil {
		t.Fatal(err)
	}
	addresses := freeAddresses(t, 3)
	server, store, peers := addresses[0], "http://"+addresses[1], "http://"+addresses[2]
	c.env = append(os.Environ(), "HOME="+c.folder, "KUBECONFIG="+c.path("admin.kubeconfig"),
		"PATH="+*tools+string(filepath.ListSeparator)+c.path("bin")+string(filepath.ListSeparator)+os.Getenv("PATH"))
	c.identities(server)

	c.launch("etcd", "--data-dir", c.path("etcd"), "--log-level", "warn",
		"--listen-client-urls", store, "--advertise-client-urls", store,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers)
	_, port, _ := net.SplitHostPort(server)
	c.launch("kube-apiserver", "--etcd-servers", store, "--bind-address", "127.0.0.1", "--secure-port", port,
		"--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none", "--cert-dir", c.path("certificates"),
		"--service-cluster-ip-range", "10.96.0.0/16", "--allow-privileged=true",
		"--authorization-mode", "RBAC", "--token-auth-file", c.path("tokens.csv"),
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", c.path("accounts.key"), "--service-account-signing-key-file", c.path("accounts.key"))
	c.until("the API server is ready", func() bool {
		_, _, err := c.try("kubectl", "get", "--raw", "/readyz")
		return err == nil
	})
	alone := []string{"--secure-port", "0", "--leader-elect=false", "--kubeconfig"}
	c.launch("kube-controller-manager", append(alone, c.path("controllers.kubeconfig"),
		"--use-service-account-credentials", "--service-account-private-key-file", c.path("accounts.key"),
		"--horizontal-pod-autoscaler-sync-period", "2s")...)
	c.launch("kube-scheduler", append(alone, c.path("scheduler.kubeconfig"))...)
	c.launch("kwok", "--kubeconfig", c.path("admin.kubeconfig"), "--config", c.stages(), "--manage-all-nodes=true",
		"--node-lease-duration-seconds", "40")
	return c
}

// path is a file in the cluster's folder.
func (c *cluster) path(name string) string { return filepath.Join(c.folder, name) }

// identities writes who may log in, and how he does.
func (c *cluster) identities(server string) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write("accounts.key", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
	var tokens strings.Builder
	for _, who := range []struct{ file, user, group string }{
		{"admin", "admin", `,"system:masters"`},
		{"controllers", "system:kube-controller-manager", ""},
		{"scheduler", "system:kube-scheduler", ""},
	} {
		token := rand.Text()
		fmt.Fprintf(&tokens, "%s,%s,%s%s\n", token, who.user, who.file, who.group)
		// The API server makes its certificate when it starts.
		c.write(who.file+".kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{ name: here, cluster: { server: "https://%s", certificate-authority: certificates/apiserver.crt } }]
users: [{ name: %s, user: { token: %s } }]
contexts: [{ name: here, context: { cluster: here, user: %[2]s } }]
current-context: here
`, server, who.file, token))
	}
	c.write("tokens.csv", tokens.String())
}

// stages is a file of how kwok plays nodes and pods, as it comes with kwok: at once, and jobs that succeed.
func (c *cluster) stages() string {
	c.t.Helper()
	kwok := c.module("tools/kwok", "sigs.k8s.io/kwok")
	var all strings.Builder
	for _, name := range []string{
		"node/fast/node-initialize", "node/heartbeat-with-lease/node-heartbeat-with-lease",
		"pod/fast/pod-ready", "pod/fast/pod-complete", "pod/fast/pod-delete",
	} {
		text, err := os.ReadFile(filepath.Join(kwok, "kustomize/stage", name+".yaml"))
		if err != nil {
			c.t.Fatal(err)
		}
		fmt.Fprintf(&all, "---\n%s\n", text)
	}
	c.write("stages.yaml", all.String())
	return c.path("stages.yaml")
}

// module is the folder of a Go module, which is fetched if it is not here.
func (c *cluster) module(from, name string) string {
	c.t.Helper()
	cmd := exec.CommandContext(c.ctx, "go", "mod", "download", "-json", name)
	cmd.Dir = from
	out, err := cmd.Output()
	var module struct{ Dir, Error string }
	if json.Unmarshal(out, &module) != nil || module.Dir == "" {
		c.t.Fatalf("the module %s cannot be had: %v %s", name, err, module.Error)
	}
	return module.Dir
}

func (c *cluster) write(name, text string) {
	c.t.Helper()
	if err := os.WriteFile(c.path(name), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// edit changes a file of the copy of deploy.
func (c *cluster) edit(name, from, to string) {
	c.t.Helper()
	text, err := os.ReadFile(c.path(name))
	if err != nil {
		c.t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		c.t.Fatalf("%s has no %q", name, from)
	}
	c.write(name, strings.ReplaceAll(string(text), from, to))
}

// launch starts a program, which ends with the test. When the test fails, it shows the end of what the program said.
func (c *cluster) launch(name string, args ...string) {
	c.t.Helper()
	said, err := os.Create(c.path(name + ".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer said.Close()
	cmd := exec.Command(filepath.Join(*tools, name), args...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = c.folder, c.env, dieWithParent()
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		c.t.Fatalf("start %s: %v", name, err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if c.t.Failed() {
			text, _ := os.ReadFile(c.path(name + ".log"))
			c.t.Logf("the end of the log of %s:\n%s", name, text[max(0, len(text)-3000):])
		}
	})
}

// try runs a command in the cluster's folder and returns what it prints and what it complains of.
func (c *cluster) try(name string, args ...string) (out, complaints string, err error) {
	return c.feed("", name, args...)
}

// feed is try with an input.
func (c *cluster) feed(in, name string, args ...string) (out, complaints string, err error) {
	var stdout, stderr bytes.Buffer
	if path := filepath.Join(*tools, name); name == "kubectl" {
		name = path
	}
	cmd := exec.CommandContext(c.ctx, name, args...)
	cmd.Dir, cmd.Env = c.folder, c.env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

// kubectl runs kubectl, which has to succeed, without a warning.
func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	return c.run("kubectl", args...)
}

// run runs a command that has to succeed, without a warning.
func (c *cluster) run(name string, args ...string) string {
	c.t.Helper()
	out, complaints, err := c.try(name, args...)
	if err != nil {
		c.t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, complaints)
	}
	if strings.Contains(complaints, "Warning:") {
		c.t.Errorf("%s %s warns:\n%s", name, strings.Join(args, " "), complaints)
	}
	return out
}

// get reads objects.
func get[T any](c *cluster, args ...string) (list []T) {
	c.t.Helper()
	var all struct{ Items []T }
	text := c.kubectl(append([]string{"get", "-o", "json", "-n", namespace}, args...)...)
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		c.t.Fatal(err)
	}
	return all.Items
}

// until waits for a condition.
func (c *cluster) until(what string, condition func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for tick := time.NewTicker(200 * time.Millisecond); !condition(); <-tick.C {
		if time.Now().After(deadline) || c.ctx.Err() != nil {
			c.t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// freeAddresses are addresses on loopback where nothing listens yet.
func freeAddresses(t *testing.T, n int) (all []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		all = append(all, l.Addr().String())
	}
	return all
}
