//go:build e2e

package e2ek8s

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	namespace  = "headgate"
	dev        = "deploy/k8s/overlays/dev"
	production = "deploy/k8s/overlays/production"
	other      = "deploy/check/testdata/other" // the components that no overlay has
)

func TestKubernetes(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	began := time.Now()
	step := func(format string, v ...any) {
		t.Helper()
		t.Logf("%4.0f s  %s", time.Since(began).Seconds(), fmt.Sprintf(format, v...))
	}
	c := newCluster(ctx, t)
	c.nodes()
	step("Kubernetes %s, six nodes in three zones", c.version())

	// Before there are custom kinds: these two need none.
	for _, overlay := range []string{dev, other} {
		c.kubectl("apply", "--server-side", "--validate=strict", "-k", overlay)
		c.settled()
		c.kubectl("diff", "--server-side", "-k", overlay)
		step("%s runs, and applied again it changes nothing: %s", filepath.Base(overlay), c.summary())
		c.kubectl("delete", "--timeout", "2m", "-k", overlay)
	}

	c.customKinds()
	c.mistakes()
	step("production and the examples are taken, and with mistakes in them refused or warned of")
	c.install()
	step("production runs, installed as the README says: %s", c.summary())
	c.kubectl("scale", "-n", namespace, "deployment/worker-connections", "--replicas", "3")
	c.settled()
	c.spread()
	c.release()
	c.spread()
	step("new images came in, with enough of each at any time, and the new pods are spread over the zones")
	c.drain()
	c.spread()
	step("nodes are drained, by one pod of each at a time")
	c.copyWorker()
	step("a folder copied is a worker more: %s", c.summary())
}

// What is read of objects.
type (
	metadata struct {
		Name              string
		DeletionTimestamp string
	}
	pod struct {
		Metadata metadata
		Spec     struct {
			NodeName   string
			Containers []struct{ Image string }
			Volumes    []struct{ Secret struct{ SecretName string } }
		}
		Status struct{ Phase string }
	}
	workload struct {
		Kind     string
		Metadata metadata
		Status   struct{ ReadyReplicas int }
	}
	scaler struct {
		Spec struct {
			MinReplicas    int
			ScaleTargetRef struct{ Name string }
		}
	}
)

// version is the server's.
func (c *cluster) version() string {
	c.t.Helper()
	var v struct{ ServerVersion struct{ GitVersion string } }
	if err := json.Unmarshal([]byte(c.kubectl("version", "-o", "json")), &v); err != nil {
		c.t.Fatal(err)
	}
	return v.ServerVersion.GitVersion
}

// nodes makes two nodes in each of the zones a, b and c, and disks that stay in their zone.
func (c *cluster) nodes() {
	c.t.Helper()
	all := `apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: { name: zonal, annotations: { storageclass.kubernetes.io/is-default-class: "true" } }
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
`
	for _, name := range []string{"a-1", "a-2", "b-1", "b-2", "c-1", "c-2"} {
		all += fmt.Sprintf(`---
apiVersion: v1
kind: Node
metadata: { name: %[1]s, labels: { kubernetes.io/hostname: %[1]s, topology.kubernetes.io/zone: %[2]s } }
status:
  allocatable: { cpu: "8", memory: 32Gi, ephemeral-storage: 100Gi, pods: "110" }
  capacity: { cpu: "8", memory: 32Gi, ephemeral-storage: 100Gi, pods: "110" }
---
apiVersion: v1
kind: PersistentVolume
metadata: { name: disk-%[1]s }
spec:
  storageClassName: zonal
  accessModes: [ReadWriteOnce]
  capacity: { storage: 100Gi }
  persistentVolumeReclaimPolicy: Retain
  local: { path: /disk }
  nodeAffinity:
    required:
      nodeSelectorTerms: [{ matchExpressions: [{ key: topology.kubernetes.io/zone, operator: In, values: [%[2]s] }] }]
`, name, zone(name))
	}
	c.write("nodes.yaml", all)
	c.kubectl("apply", "-f", "nodes.yaml")
	c.kubectl("wait", "node", "--all", "--for", "condition=Ready", "--timeout", "2m")
}

// zone is the one of a node.
func zone(node string) string { return strings.Split(node, "-")[0] }

// customKinds makes known what the overlay production and the examples have of others: the kinds that deploy/check has
// schemas of, as they come with the modules of those who made them.
func (c *cluster) customKinds() {
	c.t.Helper()
	text, err := os.ReadFile("../../deploy/check/makeschemas/main.go")
	if err != nil {
		c.t.Fatal(err)
	}
	if v := c.version(); !strings.Contains(string(text), `"k8s.io/kubernetes@`+v+`"`) {
		c.t.Errorf("deploy/check has the schemas of another version than %s", v)
	}
	found := regexp.MustCompile(`\{"(\S+@v\S+)", "(\S+\.yaml)", "v`).FindAllStringSubmatch(string(text), -1)
	if len(found) == 0 {
		c.t.Fatal("makeschemas has no custom kinds")
	}
	for _, m := range found {
		// By try: whether others' definitions are warned of is not ours.
		_, complaints, err := c.try("kubectl", "apply", "--server-side", "-f", filepath.Join(c.module(c.folder, m[1]), m[2]))
		if err != nil {
			c.t.Fatalf("%s: %v\n%s", m[2], err, complaints)
		}
	}
	c.kubectl("wait", "crd", "--all", "--for", "condition=Established", "--timeout", "2m")
}

// install does what deploy/k8s/README.md says, word by word.
func (c *cluster) install() {
	c.t.Helper()
	page, err := os.ReadFile(c.path("deploy/k8s/README.md"))
	if err != nil {
		c.t.Fatal(err)
	}
	_, install, _ := strings.Cut(string(page), "## Install\n")
	_, install, _ = strings.Cut(install, "```sh\n")
	install, _, ok := strings.Cut(install, "```\n")
	if !ok {
		c.t.Fatal("the README has no commands to install")
	}
	build := exec.CommandContext(c.ctx, "go", "build", "-o", c.path("bin/headgate"), "../../cmd/headgate")
	if out, err := build.CombinedOutput(); err != nil {
		c.t.Fatalf("go build headgate: %v\n%s", err, out)
	}
	c.kubectl("create", "namespace", "ingress-nginx") // which Headgate does not make
	c.run("sh", "-ec", install)
	c.settled()
	c.kubectl("diff", "-k", production)
	var secrets []string
	for _, s := range get[struct{ Metadata metadata }](c, "secrets") {
		secrets = append(secrets, s.Metadata.Name)
	}
	for _, p := range get[pod](c, "pods") {
		if p.Status.Phase == "Succeeded" { // the job's, whose key is deleted when it is done: that fails where it was not made
			continue
		}
		for _, v := range p.Spec.Volumes {
			if name := v.Secret.SecretName; name != "" && !slices.Contains(secrets, name) {
				c.t.Errorf("the pod %s mounts the secret %s, which the README does not make: %q", p.Metadata.Name, name, secrets)
			}
		}
	}
}

// settled waits until all that was applied runs or is done.
func (c *cluster) settled() {
	c.t.Helper()
	for _, s := range get[scaler](c, "hpa") {
		c.kubectl("wait", "-n", namespace, "deployment/"+s.Spec.ScaleTargetRef.Name,
			"--for", fmt.Sprintf("jsonpath={.spec.replicas}=%d", s.Spec.MinReplicas), "--timeout", "2m")
	}
	for _, w := range get[workload](c, "deployments,statefulsets") {
		c.kubectl("rollout", "status", "-n", namespace, w.Kind+"/"+w.Metadata.Name, "--timeout", "3m")
	}
	c.kubectl("wait", "-n", namespace, "job/provision", "--for", "condition=Complete", "--timeout", "2m")
}

// summary is how many of each are ready.
func (c *cluster) summary() string {
	c.t.Helper()
	var all []string
	for _, w := range get[workload](c, "deployments,statefulsets") {
		all = append(all, fmt.Sprintf("%s %d", w.Metadata.Name, w.Status.ReadyReplicas))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// pods are those of a workload that are not about to go.
func (c *cluster) pods(of string) []pod {
	c.t.Helper()
	return slices.DeleteFunc(get[pod](c, "pods", "-l", "app.kubernetes.io/name="+of), func(p pod) bool {
		return p.Metadata.DeletionTimestamp != ""
	})
}

// spread checks that what has three pods has one in each zone.
func (c *cluster) spread() {
	c.t.Helper()
	for _, of := range []string{"nats", "ingress", "worker-connections"} {
		zones := map[string]int{}
		pods := c.pods(of)
		for _, p := range pods {
			zones[zone(p.Spec.NodeName)]++
		}
		if len(pods) != 3 || len(zones) != 3 {
			c.t.Errorf("%s has pods in the zones %v; want one in each of three", of, zones)
		}
	}
}

// mistakes are made in what the server takes without them: it verifies that the checks can fail.
func (c *cluster) mistakes() {
	c.t.Helper()
	c.kubectl("create", "-f", "deploy/k8s/base/namespace.yaml")
	strictly := []string{"apply", "--server-side", "--force-conflicts", "--validate=strict", "--dry-run=server", "-f"}
	c.kubectl(append(strictly, "deploy/k8s/examples")...)
	const warned = `Warning: would violate PodSecurity "restricted:latest": `
	text := c.kubectl("kustomize", production)
	for _, m := range []struct{ name, from, to, says string }{
		{"no mistake", "", "", ""},
		{"a misspelt field", "allowPrivilegeEscalation:", "allowPrivilegeEscalations:", "field not declared in schema"},
		{"a misspelt field of a custom kind", "cooldownPeriod:", "coolDownPeriod:", "field not declared in schema"},
		{"a number where a text belongs", `lagThreshold: "1000"`, "lagThreshold: 1000", "expected string"},
		{"a selector of others' pods", "\n      app.kubernetes.io/name: watch\n", "\n      app: else\n", "not match"},
		{"a privileged container", "allowPrivilegeEscalation: false", "privileged: true", warned + "privileged"},
		{"a container that may be root", "runAsNonRoot: true", "runAsNonRoot: false", warned + "runAsNonRoot != true"},
		{"no seccomp profile", "type: RuntimeDefault", "type: Unconfined", warned + "seccompProfile"},
	} {
		broken := strings.Replace(text, m.from, m.to, 1)
		if broken == text && m.from != "" {
			c.t.Errorf("%s: there is no %q", m.name, m.from)
		}
		_, says, err := c.feed(broken, "kubectl", append(strictly, "-")...)
		if m.says == "" {
			if err != nil || says != "" {
				c.t.Errorf("without a mistake: %v\n%s", err, says)
			}
		} else if !strings.Contains(says, m.says) {
			c.t.Errorf("%s: want %q, but it says: %v\n%s", m.name, m.says, err, says)
		}
	}
	_, says, err := c.feed(`
apiVersion: v1
kind: Pod
metadata: { name: privileged, namespace: headgate }
spec: { containers: [{ name: privileged, image: busybox, securityContext: { privileged: true } }] }
`, "kubectl", "create", "-f", "-")
	if err == nil || !strings.Contains(says, `is forbidden: violates PodSecurity "restricted:latest"`) {
		c.t.Errorf("a privileged pod: %v\n%s", err, says)
	}
	c.kubectl("delete", "namespace", namespace, "--timeout", "2m")
}

// release rolls out new images of everything, as deploy/k8s/README.md says.
func (c *cluster) release() {
	c.t.Helper()
	c.edit(production+"/kustomization.yaml", `digest: "sha256:0`, `digest: "sha256:1`)
	want := map[string]int{"deployment/ingress": 3, "deployment/worker-connections": 3, "statefulset/nats": 2}
	least := map[string]func() int{}
	for object := range want {
		least[object] = c.watch(object)
	}
	c.kubectl("create", "secret", "generic", "nkey-provision", "-n", namespace, "--from-file=nkey=secrets/provision/nkey")
	c.kubectl("delete", "-n", namespace, "job", "provision", "--ignore-not-found")
	c.kubectl("apply", "-k", production)
	c.settled()
	c.kubectl("delete", "secret", "nkey-provision", "-n", namespace)
	for object, n := range want {
		if got := least[object](); got != n {
			c.t.Errorf("of %s %d were available at a time of the rollout; want %d", object, got, n)
		}
	}
	for _, of := range []string{"nats", "ingress", "worker-connections", "watch"} {
		for _, p := range c.pods(of) {
			if image := p.Spec.Containers[0].Image; !strings.Contains(image, "@sha256:1") {
				c.t.Errorf("the pod %s has the image %s after the rollout", p.Metadata.Name, image)
			}
		}
	}
}

// watch follows how many pods of a workload are available. The function that it returns ends that, and says how many
// they were at the least.
func (c *cluster) watch(object string) (least func() int) {
	c.t.Helper()
	seen, err := os.Create(c.path(filepath.Base(object) + ".seen"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer seen.Close()
	cmd := exec.CommandContext(c.ctx, filepath.Join(*tools, "kubectl"), "get", "-n", namespace, object,
		"--watch", "-o", `jsonpath={.status.availableReplicas}{"\n"}`)
	cmd.Env, cmd.Stdout, cmd.SysProcAttr = c.env, seen, dieWithParent()
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c.t.Cleanup(end)
	numbers := func() []string {
		text, err := os.ReadFile(seen.Name())
		if err != nil {
			c.t.Fatal(err)
		}
		return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	}
	c.until("kubectl watches "+object, func() bool { return numbers()[0] != "" })
	return func() (n int) {
		end()
		for i, text := range numbers() {
			if number, _ := strconv.Atoi(text); i == 0 || number < n { // none is an empty line
				n = number
			}
		}
		return n
	}
}

// node is where a pod runs.
func (c *cluster) node(pod string) string {
	c.t.Helper()
	return c.kubectl("get", "pod", "-n", namespace, pod, "-o", "jsonpath={.spec.nodeName}")
}

// drain empties nodes, as when they are renewed.
func (c *cluster) drain() {
	c.t.Helper()
	node := c.node("nats-0")
	c.kubectl("drain", node, "--timeout", "2m")
	c.settled()
	if now := c.node("nats-0"); now == node || zone(now) != zone(node) {
		c.t.Errorf("nats-0 went from %s to %s; want the other node of the zone, where its disk is", node, now)
	}
	c.kubectl("uncordon", node)

	// With no room elsewhere the first stays away, and a second must not go.
	first, second := c.node("nats-1"), c.node("nats-2")
	c.kubectl("cordon", "--selector", "topology.kubernetes.io/zone")
	c.kubectl("drain", first, "--timeout", "2m")
	_, says, err := c.try("kubectl", "drain", second, "--timeout", "30s")
	if err == nil || !strings.Contains(says, "violate the pod's disruption budget") {
		c.t.Errorf("drain of a second node: %v; want it held back\n%s", err, says)
	}
	for _, of := range []string{"nats", "ingress", "worker-connections"} {
		running := 0
		for _, p := range c.pods(of) {
			if p.Status.Phase == "Running" {
				running++
			}
		}
		if running < 2 || of == "nats" && running != 2 {
			c.t.Errorf("%d of %s run while two nodes are drained; want 2 of 3", running, of)
		}
	}
	c.kubectl("uncordon", "--selector", "topology.kubernetes.io/zone")
	c.settled()
	c.kubectl("drain", second, "--timeout", "2m")
	c.kubectl("uncordon", second)
	c.settled()
}

// copyWorker adds a worker as deploy/k8s/README.md says, and sees that nothing else changes.
func (c *cluster) copyWorker() {
	c.t.Helper()
	const workers = "deploy/k8s/base/workers/"
	if err := os.CopyFS(c.path(workers+"invoices"), os.DirFS(c.path(workers+"connections"))); err != nil {
		c.t.Fatal(err)
	}
	c.edit(workers+"invoices/kustomization.yaml", "connections", "invoices")
	const line = "  - workers/connections"
	c.edit("deploy/k8s/base/kustomization.yaml", line, "  - workers/invoices\n"+line)
	c.edit(production+"/kustomization.yaml", "images:\n", "images:\n  - { name: headgate/worker-invoices, newTag: v1 }\n")
	differs, complaints, err := c.try("kubectl", "diff", "-k", production)
	if complaints != "" || err == nil {
		c.t.Fatalf("kubectl diff: %v; want it to find what is new\n%s", err, complaints)
	}
	for _, m := range regexp.MustCompile(`(?m)^diff .*/(\S+)$`).FindAllStringSubmatch(differs, -1) {
		if !strings.Contains(m[1], ".worker-invoices") {
			c.t.Errorf("with a worker more, %s changes", m[1])
		}
	}
	c.kubectl("apply", "-k", production)
	c.settled()
	if pods := c.pods("worker-invoices"); len(pods) != 1 || pods[0].Spec.Volumes[0].Secret.SecretName != "nkey-invoices" {
		c.t.Errorf("the pods of the worker are %+v; want one, with its own key", pods)
	}
	consumers := c.kubectl("get", "-n", namespace, "scaledobject/worker-invoices",
		"-o", "jsonpath={.spec.triggers[*].metadata.consumer}")
	if consumers != "invoices invoices" {
		c.t.Errorf("the worker is scaled by the lag of %q; want its own", consumers)
	}
}
