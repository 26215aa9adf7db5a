// Command makeschemas writes the folder schemas: JSON schemas, strict and without their prose, of the kinds that our
// manifests use, out of the modules of those who made the kinds. Run it when a manifest needs another kind or version:
//
//	go run ./makeschemas
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

const kubernetes = "k8s.io/kubernetes@v1.36.3"

// builtin are kinds by the definition that Kubernetes has for them.
var builtin = []string{
	"io.k8s.api.core.v1.Namespace", "io.k8s.api.core.v1.Service", "io.k8s.api.core.v1.ServiceAccount", "io.k8s.api.core.v1.ConfigMap",
	"io.k8s.api.core.v1.Secret", "io.k8s.api.apps.v1.Deployment", "io.k8s.api.apps.v1.StatefulSet", "io.k8s.api.batch.v1.Job", "io.k8s.api.batch.v1.CronJob",
	"io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler", "io.k8s.api.policy.v1.PodDisruptionBudget",
	"io.k8s.api.networking.v1.NetworkPolicy", "io.k8s.api.networking.v1.Ingress", "io.k8s.api.scheduling.v1.PriorityClass",
}

// custom are kinds by the file that defines them.
var custom = []struct{ module, file, version string }{
	{"github.com/kedacore/keda/v2@v2.21.0", "config/crd/bases/keda.sh_scaledobjects.yaml", "v1alpha1"},
	{"github.com/prometheus-operator/prometheus-operator@v0.85.0", "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml", "v1"},
	{"github.com/prometheus-operator/prometheus-operator@v0.85.0", "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml", "v1"},
	{"sigs.k8s.io/gateway-api@v1.4.0", "config/crd/standard/gateway.networking.k8s.io_gateways.yaml", "v1"},
	{"sigs.k8s.io/gateway-api@v1.4.0", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml", "v1"},
}

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	text, err := source(kubernetes, "api/openapi-spec/swagger.json")
	if err != nil {
		return err
	}
	var swagger struct{ Definitions map[string]map[string]any }
	if err := json.Unmarshal(text, &swagger); err != nil {
		return err
	}
	shared := map[string]any{}
	for _, name := range builtin {
		reach(swagger.Definitions, name, shared)
		parts := strings.Split(name, ".")
		group, version, kind := parts[len(parts)-3], parts[len(parts)-2], parts[len(parts)-1]
		suffix := "-" + version
		if group != "core" {
			suffix = "-" + group + suffix
		}
		ref := map[string]any{"$ref": "definitions.json#/definitions/" + name}
		if err := write(strings.ToLower(kind)+suffix, ref); err != nil {
			return err
		}
	}
	if err := write("definitions", map[string]any{"definitions": shared}); err != nil {
		return err
	}
	for _, c := range custom {
		if err := definition(c.module, c.file, c.version); err != nil {
			return fmt.Errorf("%s: %w", c.file, err)
		}
	}
	return nil
}

// definition writes the schema of one version of a CustomResourceDefinition.
func definition(module, file, version string) error {
	text, err := source(module, file)
	if err != nil {
		return err
	}
	var crd struct {
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct{ OpenAPIV3Schema map[string]any }
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return err
	}
	for _, v := range crd.Spec.Versions {
		if v.Name == version {
			group, _, _ := strings.Cut(crd.Spec.Group, ".")
			return write(strings.ToLower(crd.Spec.Names.Kind)+"-"+group+"-"+version, strict(v.Schema.OpenAPIV3Schema))
		}
	}
	return fmt.Errorf("it has no version %s", version)
}

// reach puts a definition and all that it refers to into shared.
func reach(all map[string]map[string]any, name string, shared map[string]any) {
	if shared[name] != nil {
		return
	}
	switch name {
	case "io.k8s.apimachinery.pkg.api.resource.Quantity", "io.k8s.apimachinery.pkg.util.intstr.IntOrString":
		shared[name] = map[string]any{"type": []string{"string", "number"}}
		return
	}
	s := strict(all[name])
	shared[name] = s
	for _, ref := range refs(s) {
		reach(all, strings.TrimPrefix(ref, "#/definitions/"), shared)
	}
}

func refs(v any) (found []string) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if s, ok := x.(string); ok && k == "$ref" {
				found = append(found, s)
			}
			found = append(found, refs(x)...)
		}
	case []any:
		for _, x := range v {
			found = append(found, refs(x)...)
		}
	}
	return found
}

// kept are the words of a schema that say what is right; the others are prose, or for servers.
var kept = []string{"$ref", "type", "properties", "required", "items", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "additionalProperties", "oneOf", "anyOf", "allOf", "not"}

// strict is a schema that lets nothing pass that it does not name.
func strict(s map[string]any) map[string]any {
	out := map[string]any{}
	for _, word := range slices.Sorted(maps.Keys(s)) {
		v := s[word]
		if !slices.Contains(kept, word) {
			continue
		}
		switch v := v.(type) {
		case map[string]any:
			if word != "properties" {
				out[word] = strict(v)
				continue
			}
			named := map[string]any{}
			for name, of := range v {
				named[name] = strict(of.(map[string]any))
			}
			out[word] = named
		case []any:
			list := []any{}
			for _, x := range v {
				if of, ok := x.(map[string]any); ok {
					// A part of a choice names only what it adds.
					x = loosened(strict(of))
				}
				list = append(list, x)
			}
			out[word] = list
		default:
			out[word] = v
		}
	}
	if s["x-kubernetes-int-or-string"] == true {
		return map[string]any{"type": []string{"string", "integer"}}
	}
	if out["properties"] != nil && out["additionalProperties"] == nil && s["x-kubernetes-preserve-unknown-fields"] != true {
		out["additionalProperties"] = false
	}
	if t, ok := out["type"].(string); ok && s["nullable"] == true {
		out["type"] = []string{t, "null"}
	}
	return out
}

func loosened(s map[string]any) map[string]any {
	if s["additionalProperties"] == false {
		delete(s, "additionalProperties")
	}
	return s
}

// source is a file of a module, as the Go module proxy has it.
func source(module, file string) ([]byte, error) {
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", module, err)
	}
	var m struct{ Dir string }
	if err := json.Unmarshal(out, &m); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(m.Dir, file))
}

func write(name string, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("schemas", name+".json"), b.Bytes(), 0o644)
}
