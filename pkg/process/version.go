package process

import "runtime/debug"

// version is set by the linker: -X github.com/headgate/headgate/pkg/process.version=v1.2.3
var version string

// Version returns the version of this program: what the linker was given, or what the Go command found in the
// repository, or "unknown".
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
