package flood

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/goccy/go-yaml"

	"github.com/headgate/headgate/pkg/process"
)

// manifest is the file with the Deployment of the ingress.
const manifest = "deploy/k8s/base/ingress/deployment.yaml"

// MemoryLimit returns the memory limit of the ingress in its manifest, in bytes. root is the root of the repository.
func MemoryLimit(root string) (int64, error) {
	file, err := os.Open(filepath.Join(root, manifest))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for documents := yaml.NewDecoder(file); ; {
		var d struct {
			Spec struct {
				Template struct {
					Spec struct {
						Containers []container
					}
				}
			}
		}
		switch err := documents.Decode(&d); {
		case errors.Is(err, io.EOF):
			return 0, fmt.Errorf("%s has no container ingress", manifest)
		case err != nil:
			return 0, fmt.Errorf("%s: %w", manifest, err)
		}
		containers := d.Spec.Template.Spec.Containers
		if n := slices.IndexFunc(containers, func(c container) bool { return c.Name == "ingress" }); n >= 0 {
			var limit process.ByteSize
			if err := limit.UnmarshalText([]byte(containers[n].Resources.Limits.Memory + "B")); err != nil { // Kubernetes writes Mi
				return 0, fmt.Errorf("%s: limits.memory: %w", manifest, err)
			}
			return int64(limit), nil
		}
	}
}

type container struct {
	Name      string
	Resources struct {
		Limits struct{ Memory string }
	}
}
