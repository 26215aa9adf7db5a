// Command profiled is the ingress, which writes a CPU profile of itself to the file that PROFILE names.
package main

import (
	"context"
	"errors"
	"os"
	"runtime/pprof"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
)

func main() { process.Main("ingress", "The ingress, profiled.", new(ingress.Settings), run) }

func run(ctx context.Context, s *ingress.Settings, p *process.Process) (err error) {
	file, err := os.Create(os.Getenv("PROFILE"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return ingress.Run(ctx, s, p)
}
