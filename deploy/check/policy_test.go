package check_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// A workload is anything that makes pods.
type workload struct {
	kind, name string
	replicas   *int32
	pod        corev1.PodTemplateSpec
}

func (w workload) String() string { return w.kind + " " + w.name }

func (w *world) workloads() (all []workload) {
	for _, d := range w.deployments {
		all = append(all, workload{"Deployment", d.Name, d.Spec.Replicas, d.Spec.Template})
	}
	for _, s := range w.stateful {
		all = append(all, workload{"StatefulSet", s.Name, s.Spec.Replicas, s.Spec.Template})
	}
	for _, j := range w.jobs {
		all = append(all, workload{"Job", j.Name, nil, j.Spec.Template})
	}
	for _, c := range w.crons {
		all = append(all, workload{"Job", c.Name, nil, c.Spec.JobTemplate.Spec.Template})
	}
	return all
}

func is[T comparable](p *T, want T) bool { return p != nil && *p == want }

// violations are what a strict reviewer finds. Every line of it is tried by TestViolations_AreFound.
func violations(w *world) (found []string) {
	for _, l := range w.workloads() {
		say := func(format string, args ...any) { found = append(found, l.String()+": "+fmt.Sprintf(format, args...)) }
		pod := l.pod.Spec
		sc := pod.SecurityContext
		if sc == nil || !is(sc.RunAsNonRoot, true) || sc.RunAsUser == nil || *sc.RunAsUser == 0 || sc.RunAsGroup == nil || *sc.RunAsGroup == 0 {
			say("may run as root")
		}
		if sc == nil || sc.SeccompProfile == nil || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			say("no seccomp profile")
		}
		if !is(pod.AutomountServiceAccountToken, false) {
			say("mounts a token of the API server")
		}
		if !is(pod.EnableServiceLinks, false) {
			say("has every service in its environment")
		}
		if pod.ServiceAccountName != l.name {
			say("has not its own service account")
		}
		if pod.HostNetwork || pod.HostPID || pod.HostIPC {
			say("uses the host")
		}
		if pod.TerminationGracePeriodSeconds == nil && l.kind != "Job" {
			say("does not say how long it takes to stop")
		}
		for _, v := range pod.Volumes {
			if v.HostPath != nil {
				say("mounts a folder of the host")
			}
			if v.EmptyDir != nil && v.EmptyDir.SizeLimit == nil {
				say("has a folder without a size")
			}
			if v.Secret != nil && (v.Secret.DefaultMode == nil || *v.Secret.DefaultMode&0o007 != 0) {
				say("has a secret that others can read")
			}
		}
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			violationsOf(c, l.kind == "Job", say)
		}
	}
	for _, a := range w.accounts {
		if !is(a.AutomountServiceAccountToken, false) {
			found = append(found, "ServiceAccount "+a.Name+": mounts a token of the API server")
		}
	}
	for _, kind := range w.kinds {
		if strings.HasPrefix(kind, "Secret/") {
			found = append(found, kind+": a secret in a manifest")
		}
	}
	return found
}

var tagged = regexp.MustCompile(`^[a-z0-9./-]+(:[\w][\w.-]*|@sha256:[0-9a-f]{64})$`)

func violationsOf(c corev1.Container, ends bool, say func(string, ...any)) {
	if !tagged.MatchString(c.Image) || strings.HasSuffix(c.Image, ":latest") {
		say("image %s has no fixed version", c.Image)
	}
	sc := c.SecurityContext
	if sc == nil || !is(sc.AllowPrivilegeEscalation, false) || is(sc.Privileged, true) {
		say("may get more privileges")
	}
	if sc == nil || !is(sc.ReadOnlyRootFilesystem, true) {
		say("may write to its image")
	}
	if sc == nil || sc.Capabilities == nil || !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(sc.Capabilities.Add) > 0 {
		say("has capabilities")
	}
	if sc != nil && is(sc.RunAsUser, 0) {
		say("runs as root")
	}
	r := c.Resources
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if r.Requests[name] == (corev1.ResourceList{})[name] {
			say("requests no %s", name)
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if r.Limits[name] == (corev1.ResourceList{})[name] {
			say("has no limit of %s", name)
		}
	}
	if r.Limits.Memory().Cmp(*r.Requests.Memory()) != 0 {
		say("has more memory at times than it asks for")
	}
	if !r.Limits.Cpu().IsZero() {
		say("has a limit of CPU, which adds to the time of answers")
	}
	if c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
		say("does not say why it ended")
	}
	if c.ImagePullPolicy != corev1.PullIfNotPresent {
		say("pulls its image at every start")
	}
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			say("has a secret in its environment, where it cannot be rotated")
		}
	}
	for _, m := range c.VolumeMounts {
		if m.SubPath != "" {
			say("mounts a single file, which is never renewed")
		}
	}
	if ends {
		return
	}
	path := func(p *corev1.Probe) string {
		if p == nil || p.HTTPGet == nil {
			return ""
		}
		return p.HTTPGet.Path
	}
	if path(c.StartupProbe) == "" || path(c.LivenessProbe) == "" || path(c.ReadinessProbe) == "" {
		say("has not all probes")
	}
	if path(c.LivenessProbe) == path(c.ReadinessProbe) {
		say("is restarted for not being ready")
	}
}

func TestWorkloads_KeepTheRules(t *testing.T) {
	t.Parallel()
	for _, folder := range overlays {
		w := see(t, build(t, folder))
		if len(w.workloads()) < 4 {
			t.Errorf("%s has %d workloads; want the ingress, a worker, the watcher and the job", folder, len(w.workloads()))
		}
		for _, v := range violations(w) {
			t.Errorf("%s: %s", folder, v)
		}
	}
}

// Each rule finds a manifest that breaks it.
func TestViolations_AreFound(t *testing.T) {
	t.Parallel()
	text := string(build(t, dev))
	for _, m := range []struct{ says, from, to string }{
		{"may run as root", "runAsNonRoot: true", "runAsNonRoot: false"},
		{"may run as root", "runAsUser: 65532", "runAsUser: 0"},
		{"may run as root", "runAsGroup: 65532", "runAsGroup: 0"},
		{"no seccomp profile", "type: RuntimeDefault", "type: Unconfined"},
		{"mounts a token", "automountServiceAccountToken: false\n      containers", "automountServiceAccountToken: true\n      containers"},
		{"ServiceAccount nats: mounts a token", "automountServiceAccountToken: false\nkind: ServiceAccount", "kind: ServiceAccount"},
		{"every service in its environment", "enableServiceLinks: false", "enableServiceLinks: true"},
		{"not its own service account", "serviceAccountName: watch", "serviceAccountName: default"},
		{"uses the host", "enableServiceLinks: false", "enableServiceLinks: false\n      hostNetwork: true"},
		{"how long it takes to stop", "terminationGracePeriodSeconds: 40\n", "\n"},
		{"a folder of the host", "secret:\n          defaultMode: 288\n          secretName: webhook", "hostPath: { path: / }"},
		{"a folder without a size", "secret:\n          defaultMode: 288\n          secretName: webhook", "emptyDir: {}"},
		{"a secret that others can read", "defaultMode: 288", "defaultMode: 292"},
		{"no fixed version", "image: headgate/ingress:dev", "image: headgate/ingress:latest"},
		{"no fixed version", "image: headgate/ingress:dev", "image: headgate/ingress"},
		{"more privileges", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"},
		{"more privileges", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: false\n          privileged: true"},
		{"write to its image", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"},
		{"has capabilities", "drop:\n            - ALL", "drop:\n            - NET_RAW"},
		{"has capabilities", "drop:\n            - ALL", "add: [NET_ADMIN]\n            drop:\n            - ALL"},
		{"runs as root", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: true\n          runAsUser: 0"},
		{"requests no cpu", "            cpu: 10m\n", ""},
		{"requests no memory", "requests:\n            cpu: 10m\n            ephemeral-storage: 16Mi\n            memory: 256Mi", "requests:\n            cpu: 10m\n            ephemeral-storage: 16Mi"},
		{"has no limit of memory", "limits:\n            ephemeral-storage: 64Mi\n            memory: 256Mi", "limits:\n            ephemeral-storage: 64Mi"},
		{"has no limit of ephemeral-storage", "limits:\n            ephemeral-storage: 64Mi\n", "limits:\n"},
		{"more memory at times", "memory: 256Mi\n", "memory: 64Mi\n"},
		{"a limit of CPU", "limits:\n", "limits:\n            cpu: 1\n"},
		{"why it ended", "terminationMessagePolicy: FallbackToLogsOnError", "terminationMessagePolicy: File"},
		{"pulls its image", "imagePullPolicy: IfNotPresent", "imagePullPolicy: Always"},
		{"a secret in its environment", "value: /run/secrets/webhook/key", "valueFrom: { secretKeyRef: { name: webhook, key: key } }"},
		{"a single file", "mountPath: /run/secrets/webhook", "subPath: key\n          mountPath: /run/secrets/webhook"},
		{"not all probes", "path: /readyz", `path: ""`},
		{"restarted for not being ready", "livenessProbe:\n          failureThreshold: 3\n          httpGet:\n            path: /livez", "livenessProbe:\n          failureThreshold: 3\n          httpGet:\n            path: /readyz"},
		{"a secret in a manifest", "kind: PriorityClass", "kind: Secret"},
	} {
		broken := strings.Replace(text, m.from, m.to, 1)
		if broken == text {
			t.Errorf("%s: there is no %q", m.says, m.from)
			continue
		}
		if !slices.ContainsFunc(violations(see(t, []byte(broken))), func(v string) bool { return strings.Contains(v, m.says) }) {
			t.Errorf("%q in place of %q is not found: want %q", m.to, m.from, m.says)
		}
	}
}

// matches reports whether a selector takes a workload's pods, and no selector takes nothing.
func matches(t testing.TB, s *metav1.LabelSelector, of map[string]string) bool {
	t.Helper()
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return !sel.Empty() && sel.Matches(labels.Set(of))
}

// Selectors, names of ports and targets of scalers are texts that nothing else connects.
func TestObjects_ReferToObjectsThatExist(t *testing.T) {
	t.Parallel()
	for _, folder := range overlays {
		w := see(t, build(t, folder))
		byName := map[string]workload{}
		for _, l := range w.workloads() {
			byName[l.name] = l
		}
		for _, d := range w.deployments {
			if !matches(t, d.Spec.Selector, d.Spec.Template.Labels) {
				t.Errorf("%s: Deployment %s does not select its own pods", folder, d.Name)
			}
			for _, c := range d.Spec.Template.Spec.TopologySpreadConstraints {
				if !matches(t, c.LabelSelector, d.Spec.Template.Labels) {
					t.Errorf("%s: Deployment %s spreads others' pods", folder, d.Name)
				}
			}
		}
		for _, s := range w.services {
			for _, l := range w.workloads() {
				if !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(l.pod.Labels)) {
					continue
				}
				for _, p := range s.Spec.Ports {
					if !slices.ContainsFunc(l.pod.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool { return c.Name == p.TargetPort.StrVal }) {
						t.Errorf("%s: Service %s leads to the port %s, which %s has not", folder, s.Name, p.TargetPort.String(), l)
					}
				}
			}
		}
		for _, b := range w.budgets {
			n := 0
			for _, l := range w.workloads() {
				if matches(t, b.Spec.Selector, l.pod.Labels) {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s: PodDisruptionBudget %s is for %d workloads; want 1", folder, b.Name, n)
			}
			if b.Spec.MaxUnavailable.IntValue() != 1 || b.Spec.UnhealthyPodEvictionPolicy == nil {
				t.Errorf("%s: PodDisruptionBudget %s may keep a node from being drained", folder, b.Name)
			}
		}
		scaled := map[string]int{}
		for _, h := range w.scalers {
			scaled[h.Spec.ScaleTargetRef.Name]++
		}
		for _, s := range w.lags {
			scaled[s.Spec.ScaleTargetRef.Name]++
		}
		for name, n := range scaled {
			l, ok := byName[name]
			if !ok || n != 1 {
				t.Errorf("%s: %s has %d scalers, is there: %t; want one", folder, name, n, ok)
			}
			if l.replicas != nil {
				t.Errorf("%s: %s has a number of replicas and a scaler: every apply would set it back", folder, name)
			}
		}
	}
}

// A worker is scaled by its own lag, without what it parked.
func TestWorkers_ScaleByTheirLag(t *testing.T) {
	t.Parallel()
	w := see(t, build(t, production))
	workers := 0
	for _, d := range w.deployments {
		name, ok := strings.CutPrefix(d.Name, "worker-")
		if !ok {
			continue
		}
		workers++
		i := slices.IndexFunc(w.lags, func(s scaledObject) bool { return s.Spec.ScaleTargetRef.Name == d.Name })
		if i < 0 {
			t.Errorf("%s has no ScaledObject", d.Name)
			continue
		}
		s := w.lags[i]
		if s.Spec.Fallback == nil || s.Spec.CooldownPeriod == 0 || s.Spec.MinReplicaCount == nil {
			t.Errorf("ScaledObject %s = %+v; want a fallback, a cooldown and a least number", s.Name, s.Spec)
		}
		for n, want := range []struct{ stream, threshold string }{{"CODAT", "1000"}, {"CODAT_PARKED", "1000000000"}} {
			m := s.Spec.Triggers[n].Metadata
			if m["stream"] != want.stream || m["consumer"] != name || m["lagThreshold"] != want.threshold || m["account"] != "HEADGATE" || m["activationLagThreshold"] != "0" {
				t.Errorf("trigger %d of %s is %v; want stream %s, consumer %s, threshold %s", n, s.Name, m, want.stream, name, want.threshold)
			}
			// KEDA asks the leader of the consumer as <server name>.<endpoint>.
			if got, want := m["natsServerMonitoringEndpoint"], "nats-headless."+d.Namespace+".svc.cluster.local:8222"; got != want {
				t.Errorf("trigger %d of %s asks %s; want %s", n, s.Name, got, want)
			}
		}
	}
	if workers == 0 {
		t.Error("there are no workers")
	}
	if len(see(t, build(t, dev)).lags) > 0 {
		t.Error("the overlay dev needs KEDA")
	}
}

// Each folder of a worker in the base is a Deployment in every overlay.
func TestOverlays_RunEveryWorker(t *testing.T) {
	t.Parallel()
	folders, err := os.ReadDir(manifests + "/base/workers")
	if err != nil || len(folders) == 0 {
		t.Fatalf("the base has no workers: %v", err)
	}
	for _, overlay := range overlays {
		kinds := see(t, build(t, overlay)).kinds
		for _, f := range folders {
			if !slices.Contains(kinds, "Deployment/worker-"+f.Name()) {
				t.Errorf("%s has no Deployment worker-%s: run make generate", overlay, f.Name())
			}
		}
	}
}

// Another worker is a folder with its name, and the line that make generate adds to the base; nothing else changes by it.
func TestWorkerFolder_AddsOneWorker(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, name := range []string{"k8s", "nats", "monitoring"} {
		if err := os.CopyFS(filepath.Join(folder, name), os.DirFS(filepath.Join("..", name))); err != nil {
			t.Fatal(err)
		}
	}
	workers := filepath.Join(folder, "k8s/base/workers")
	if err := os.CopyFS(filepath.Join(workers, "invoices"), os.DirFS(filepath.Join(workers, "connections"))); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"k8s/base/workers/invoices/kustomization.yaml": {"connections", "invoices"},
		"k8s/base/kustomization.yaml":                  {"resources:\n", "resources:\n  - workers/invoices\n"},
	} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.ReplaceAll(string(text), change[0], change[1])
		if err := os.WriteFile(filepath.Join(folder, name), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	was := strings.Split(string(build(t, production)), "---\n")
	var added []string
	for doc := range strings.SplitSeq(string(build(t, filepath.Join(folder, "k8s/overlays/production"))), "---\n") {
		if i := slices.Index(was, doc); i >= 0 {
			was = slices.Delete(was, i, i+1)
			continue
		}
		if strings.Contains(doc, "connections") || strings.Contains(doc, "NAME") {
			t.Errorf("it has another's name, or none:\n%s", doc)
		}
		added = append(added, doc)
	}
	if len(was) > 0 {
		t.Errorf("it changes others:\n%s", strings.Join(was, "---\n"))
	}
	kinds := see(t, []byte(strings.Join(added, "---\n"))).kinds
	slices.Sort(kinds)
	want := []string{
		"Deployment/worker-invoices", "PodDisruptionBudget/worker-invoices", "ScaledObject/worker-invoices",
		"ServiceAccount/worker-invoices",
	}
	if !slices.Equal(kinds, want) {
		t.Errorf("a worker more is %q; want %q", kinds, want)
	}
}

// The worker of docs/own-worker.md is built from its own folder, with the components of this repository.
func TestOwnWorkerPage_BuildsAWorker(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/own-worker.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(page), "`deploy/kustomization.yaml`\n\n```yaml\n")
	text, _, ok := strings.Cut(after, "```\n")
	if !ok {
		t.Fatal("docs/own-worker.md has no deploy/kustomization.yaml")
	}
	root := t.TempDir()
	if err := os.CopyFS(filepath.Join(root, "headgate/deploy/k8s"), os.DirFS("../k8s")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "deploy"), 0o755); err != nil {
		t.Fatal(err)
	}
	text = strings.ReplaceAll(text, "https://github.com/headgate/headgate//", "../headgate/")
	if err := os.WriteFile(filepath.Join(root, "deploy/kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	built := build(t, filepath.Join(root, "deploy"))
	kinds := see(t, built).kinds
	slices.Sort(kinds)
	if want := []string{"Deployment/worker-expenses", "PodDisruptionBudget/worker-expenses", "ServiceAccount/worker-expenses"}; !slices.Equal(kinds, want) {
		t.Errorf("the worker is %q; want %q", kinds, want)
	}
	for _, has := range []string{"registry.example.com/worker-expenses:v1", "HEADGATE_DATABASE_URL", "secretName: nkey-expenses", "headgate.dev/role: worker"} {
		if !strings.Contains(string(built), has) {
			t.Errorf("the worker has no %s:\n%s", has, built)
		}
	}
	if wrong := conform(t, built); len(wrong) > 0 {
		t.Errorf("it is not valid: %q", wrong)
	}
	if found := violations(see(t, built)); len(found) > 0 {
		t.Errorf("it does not keep the rules: %q", found)
	}
}

// A route of the relay is built from its own folder, as any worker that is not built in.
func TestRelayExample_BuildsARoute(t *testing.T) {
	t.Parallel()
	built := build(t, manifests+"/examples/relay")
	w := see(t, built)
	slices.Sort(w.kinds)
	if len(w.kinds) != 4 || !strings.HasPrefix(w.kinds[0], "ConfigMap/relay-example-") ||
		!slices.Equal(w.kinds[1:], []string{"Deployment/worker-relay-example", "PodDisruptionBudget/worker-relay-example", "ServiceAccount/worker-relay-example"}) {
		t.Errorf("the route is %q", w.kinds)
	}
	for _, has := range []string{
		"image: headgate/worker-relay:dev", "value: example", "secretName: nkey-relay-example", "secretName: relay-example",
		"headgate.dev/role: worker", `headgate.dev/internet: "true"`, "name: " + strings.TrimPrefix(w.kinds[0], "ConfigMap/"), "- name: example",
	} {
		if !strings.Contains(string(built), has) {
			t.Errorf("the route has no %s:\n%s", has, built)
		}
	}
	if wrong := conform(t, built); len(wrong) > 0 {
		t.Errorf("it is not valid: %q", wrong)
	}
	if found := violations(w); len(found) > 0 {
		t.Errorf("it does not keep the rules: %q", found)
	}
}

func TestProduction_SurvivesAFailure(t *testing.T) {
	t.Parallel()
	w := see(t, build(t, production))
	for _, l := range w.workloads() {
		if image := l.pod.Spec.Containers[0].Image; !strings.Contains(image, "@sha256:") {
			t.Errorf("%s has the image %s; want it by digest", l, image)
		}
		if !slices.ContainsFunc(w.budgets, func(b policyv1.PodDisruptionBudget) bool { return matches(t, b.Spec.Selector, l.pod.Labels) }) && l.name != "watch" && l.kind != "Job" {
			t.Errorf("%s has no PodDisruptionBudget", l)
		}
	}
	nats := w.stateful[0]
	if *nats.Spec.Replicas != 3 || !slices.ContainsFunc(nats.Spec.Template.Spec.TopologySpreadConstraints, func(c corev1.TopologySpreadConstraint) bool {
		return c.TopologyKey == corev1.LabelTopologyZone && c.WhenUnsatisfiable == corev1.DoNotSchedule
	}) {
		t.Errorf("NATS has %d servers, not one in each zone", *nats.Spec.Replicas)
	}
	if args := w.jobs[0].Spec.Template.Spec.Containers[0].Args; !slices.Contains(args, "--replicas=3") {
		t.Errorf("provision %q; want three replicas", args)
	}
	for _, d := range w.deployments {
		if u := d.Spec.Strategy.RollingUpdate; u == nil || u.MaxUnavailable.IntValue() != 0 {
			t.Errorf("a rollout of %s takes one away before another is ready", d.Name)
		}
		if d.Name == "ingress" && d.Spec.MinReadySeconds == 0 {
			t.Error("a rollout of the ingress does not wait for balancers")
		}
	}
	for _, n := range w.namespaces {
		if n.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
			t.Errorf("namespace %s is not restricted", n.Name)
		}
	}
}

// A scrub that runs when the next is due, or for ever, hides that no copy is read.
func TestScrub_RunsOnceADay(t *testing.T) {
	t.Parallel()
	crons := see(t, build(t, other)).crons
	if len(crons) != 1 {
		t.Fatalf("there are %d CronJobs; want scrub", len(crons))
	}
	c := crons[0].Spec
	if f := strings.Fields(c.Schedule); len(f) != 5 || strings.Join(f[2:], " ") != "* * *" || strings.ContainsAny(f[0]+f[1], "*,/-") {
		t.Errorf("its schedule is %q; want one time of every day", c.Schedule)
	}
	if job := c.JobTemplate.Spec; c.ConcurrencyPolicy != batchv1.ForbidConcurrent || job.ActiveDeadlineSeconds == nil || job.BackoffLimit == nil {
		t.Errorf("it runs beside another one, or for ever: %+v", c)
	}
}

// Every secret that a pod mounts is one that the README says how to make.
func TestREADME_NamesEverySecret(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(manifests + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range overlays {
		for _, l := range see(t, build(t, folder)).workloads() {
			for _, v := range l.pod.Spec.Volumes {
				name := ""
				if v.Secret != nil {
					name = v.Secret.SecretName
				}
				if worker, ok := strings.CutPrefix(l.name, "worker-"); ok {
					name = strings.Replace(name, "-"+worker, "-<worker>", 1)
				}
				if name != "" && !strings.Contains(string(page), "`"+name+"`") {
					t.Errorf("%s: %s needs the secret %s, of which the README does not speak", folder, l, v.Secret.SecretName)
				}
			}
		}
	}
}
