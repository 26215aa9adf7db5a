// Package check_test keeps the manifests in deploy/k8s and the rules in deploy/monitoring true, without a cluster. It is a
// module of its own, so that its tools are not the product's: run it by make check-deploy.
package check_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/yannh/kubeconform/pkg/validator"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// Folders, from this one.
const (
	manifests  = "../k8s"
	monitoring = "../monitoring"
	dev        = manifests + "/overlays/dev"
	production = manifests + "/overlays/production"
	other      = "testdata/other" // the components that no overlay has
)

var overlays = []string{dev, production, other}

// built are the overlays as kustomize builds them, each built once.
var built sync.Map

// build is what kubectl apply -k would send.
func build(t testing.TB, folder string) []byte {
	t.Helper()
	once, _ := built.LoadOrStore(folder, sync.OnceValues(func() ([]byte, error) {
		all, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
		if err != nil {
			return nil, err
		}
		return all.AsYaml()
	}))
	text, err := once.(func() ([]byte, error))()
	if err != nil {
		t.Fatalf("kustomize build %s: %v", folder, err)
	}
	return text
}

// A world is all objects of an overlay, by kind, as Kubernetes' own types.
type world struct {
	kinds       []string // kind/name of each
	namespaces  []corev1.Namespace
	services    []corev1.Service
	accounts    []corev1.ServiceAccount
	deployments []appsv1.Deployment
	stateful    []appsv1.StatefulSet
	jobs        []batchv1.Job
	crons       []batchv1.CronJob
	scalers     []autoscalingv2.HorizontalPodAutoscaler
	lags        []scaledObject
	budgets     []policyv1.PodDisruptionBudget
	policies    []networkingv1.NetworkPolicy
}

// scaledObject is what is looked at of KEDA's kind of that name.
type scaledObject struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ScaleTargetRef  struct{ Name string } `json:"scaleTargetRef"`
		MinReplicaCount *int                  `json:"minReplicaCount"`
		MaxReplicaCount int                   `json:"maxReplicaCount"`
		CooldownPeriod  int                   `json:"cooldownPeriod"`
		Fallback        *struct{ Replicas int }
		Triggers        []struct {
			Type     string
			Metadata map[string]string
		}
	}
}

// see reads the objects of an overlay.
func see(t testing.TB, text []byte) *world {
	t.Helper()
	w := new(world)
	for _, doc := range bytes.Split(text, []byte("\n---\n")) {
		var head struct {
			metav1.TypeMeta   `json:",inline"`
			metav1.ObjectMeta `json:"metadata"`
		}
		read(t, doc, &head)
		w.kinds = append(w.kinds, head.Kind+"/"+head.Name)
		switch head.Kind {
		case "Namespace":
			w.namespaces = append(w.namespaces, typed[corev1.Namespace](t, doc))
		case "Service":
			w.services = append(w.services, typed[corev1.Service](t, doc))
		case "ServiceAccount":
			w.accounts = append(w.accounts, typed[corev1.ServiceAccount](t, doc))
		case "Deployment":
			w.deployments = append(w.deployments, typed[appsv1.Deployment](t, doc))
		case "StatefulSet":
			w.stateful = append(w.stateful, typed[appsv1.StatefulSet](t, doc))
		case "Job":
			w.jobs = append(w.jobs, typed[batchv1.Job](t, doc))
		case "CronJob":
			w.crons = append(w.crons, typed[batchv1.CronJob](t, doc))
		case "HorizontalPodAutoscaler":
			w.scalers = append(w.scalers, typed[autoscalingv2.HorizontalPodAutoscaler](t, doc))
		case "ScaledObject":
			var s scaledObject
			read(t, doc, &s)
			w.lags = append(w.lags, s)
		case "PodDisruptionBudget":
			w.budgets = append(w.budgets, typed[policyv1.PodDisruptionBudget](t, doc))
		case "NetworkPolicy":
			w.policies = append(w.policies, typed[networkingv1.NetworkPolicy](t, doc))
		}
	}
	return w
}

func read(t testing.TB, doc []byte, into any) {
	t.Helper()
	if err := yaml.Unmarshal(doc, into); err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
}

// typed reads an object and refuses a field that its kind does not have.
func typed[T any](t testing.TB, doc []byte) (v T) {
	t.Helper()
	if err := yaml.UnmarshalStrict(doc, &v); err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	return v
}

// conform validates objects against the strict schemas in the folder schemas, and returns what is wrong.
func conform(t testing.TB, text []byte) (wrong []string) {
	t.Helper()
	v, err := validator.New([]string{"schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json"}, validator.Opts{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range v.Validate("manifests", io.NopCloser(bytes.NewReader(text))) {
		if r.Status != validator.Valid && r.Status != validator.Empty {
			sig, _ := r.Resource.Signature()
			wrong = append(wrong, fmt.Sprintf("%s %s: %v", sig.Kind, sig.Name, r.Err))
		}
	}
	return wrong
}

func TestManifests_ConformToTheirSchemas(t *testing.T) {
	t.Parallel()
	for _, folder := range overlays {
		for _, w := range conform(t, build(t, folder)) {
			t.Errorf("%s: %s", folder, w)
		}
	}
	examples, err := filepath.Glob(manifests + "/examples/*.yaml")
	if err != nil || len(examples) == 0 {
		t.Fatalf("there are no examples: %v", err)
	}
	for _, name := range examples {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range conform(t, text) {
			t.Errorf("%s: %s", name, w)
		}
	}
}

// The schemas are strict: what a server would refuse, or silently drop, is found here.
func TestConform_FindsMistakes(t *testing.T) {
	t.Parallel()
	text := string(build(t, production))
	for _, m := range []struct{ name, from, to string }{
		{"a misspelt field", "allowPrivilegeEscalation: false", "allowPrivilegeEscalations: false"},
		{"a misspelt field of a custom kind", "cooldownPeriod:", "coolDownPeriod:"},
		{"a text where a number belongs", "maxReplicas: 12", "maxReplicas: many"},
		{"a number where a text belongs", `lagThreshold: "1000"`, "lagThreshold: 1000"},
		{"a missing field", "scaleTargetRef:", "scaleTarget:"},
		{"an unknown kind", "kind: PodMonitor", "kind: PodMonitoring"},
		{"a field at the wrong place", "spec:\n  maxUnavailable: 1", "maxUnavailable: 1\nspec:"},
	} {
		broken := strings.Replace(text, m.from, m.to, 1)
		if broken == text {
			t.Errorf("%s: there is no %q", m.name, m.from)
		} else if len(conform(t, []byte(broken))) == 0 {
			t.Errorf("%s is not found", m.name)
		}
	}
}
