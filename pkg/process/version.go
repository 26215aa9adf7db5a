package process

import "runtime/debug"

// version is set by the linker: -X github.com/headgate/headgate/pkg/process.version=v1.2.3
var version string

// Version is the version that this program was built as: what the linker was told, else what the Go command found
// in the repository, else "unknown".
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
