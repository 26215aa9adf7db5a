package process

import (
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestCheckEnvironment(t *testing.T) {
	own := []string{"HEADGATE_LISTEN", "HEADGATE_SECRET", "NATS_URL"}
	tests := []struct {
		name  string
		entry string
		says  string // "" when it passes
	}{
		{"a setting of this program", "HEADGATE_LISTEN=:8080", ""},
		{"a setting of another program", "HEADGATE_LOG_LEVEL=debug", ""},
		{"somebody else's variable", "PATH=/bin", ""},
		{"a name that only begins alike", "HEADGATEKEEPER=1", ""},
		{"a misspelt setting", "HEADGATE_LISTN=:8080", "did you mean HEADGATE_LISTEN?"},
		{"a misspelt setting of another program", "HEADGATE_LOG_LEVL=debug", "did you mean HEADGATE_LOG_LEVEL?"},
		{"a setting in small letters", "HEADGATE_listen=:8080", "did you mean HEADGATE_LISTEN?"},
		{"the host of a service called headgate", "HEADGATE_SERVICE_HOST=10.0.0.1", ""},
		{"the port of a service called headgate", "HEADGATE_SERVICE_PORT=80", ""},
		{"a named port of a service", "HEADGATE_INGRESS_SERVICE_PORT_HTTP=80", ""},
		{"a port of a service as a link", "HEADGATE_INGRESS_PORT=tcp://10.0.0.1:80", ""},
		{"a port that is no link", "HEADGATE_INGRESS_PORT=8080", "HEADGATE_INGRESS_PORT is no setting"},
		{"a port by its protocol", "HEADGATE_INGRESS_PORT_80_TCP=tcp://10.0.0.1:80", ""},
		{"the address of a port by its protocol", "HEADGATE_INGRESS_PORT_80_TCP_ADDR=10.0.0.1", ""},
		{"the host of a service written short", "HEADGATE_HOST=10.0.0.1", "HEADGATE_HOST is no setting"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := checkEnvironment([]string{tt.entry}, own)
			if tt.says == "" && err != nil {
				t.Errorf("checkEnvironment(%s) = %v; want nil", tt.entry, err)
			}
			if tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("checkEnvironment(%s) = %v; want %q in it", tt.entry, err, tt.says)
			}
		})
	}
}

func TestKnownIsSorted(t *testing.T) {
	if !slices.IsSorted(Known) || len(slices.Compact(slices.Clone(Known))) != len(Known) {
		t.Errorf("Known = %q; want it sorted, each once", Known)
	}
}

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"same", "same", 0},
		{"kitten", "sitting", 3},
		{"listn", "listen", 1},
	}
	for _, tt := range tests {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d; want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestNearest(t *testing.T) {
	tests := []struct {
		name  string
		names []string
		want  string
	}{
		{"HEADGATE_LISTN", []string{"HEADGATE_SECRET", "HEADGATE_LISTEN"}, "HEADGATE_LISTEN"},
		{"Invoices.write.sucessful", []string{"bills.write.successful", "invoices.write.successful"}, "invoices.write.successful"},
		{"a", []string{"b", "c"}, "b"},
		{"a", nil, ""},
	}
	for _, tt := range tests {
		if got := Nearest(tt.name, tt.names); got != tt.want {
			t.Errorf("Nearest(%q, %q) = %q; want %q", tt.name, tt.names, got, tt.want)
		}
	}
}

func TestContainerMemory(t *testing.T) {
	const v2, v1 = "sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"
	tests := []struct {
		name       string
		file, text string
		want       int64
	}{
		{"a limit, as cgroups 2 say it", v2, "67108864\n", 64 << 20},
		{"no limit, as cgroups 2 say it", v2, "max\n", 0},
		{"a limit, as cgroups 1 say it", v1, "67108864\n", 64 << 20},
		{"no limit, as cgroups 1 say it", v1, "9223372036854771712\n", 0},
		{"no container", "etc/hostname", "laptop\n", 0},
		{"something else", v2, "lots\n", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := fstest.MapFS{tt.file: &fstest.MapFile{Data: []byte(tt.text)}}
			if got := containerMemory(root); got != tt.want {
				t.Errorf("containerMemory = %d; want %d", got, tt.want)
			}
		})
	}
}

func TestLimitMemoryLeavesRoomAndMinds(t *testing.T) {
	root := fstest.MapFS{"sys/fs/cgroup/memory.max": &fstest.MapFile{Data: []byte("1099511627770\n")}}
	before := limitMemory(fstest.MapFS{})
	if before != 0 {
		t.Errorf("limitMemory without a container = %d; want 0", before)
	}
	if got, want := limitMemory(root), int64(989560464993); got != want {
		t.Errorf("limitMemory = %d; want %d", got, want)
	}
	t.Setenv("GOMEMLIMIT", "off")
	if got := limitMemory(root); got != 0 {
		t.Errorf("limitMemory with GOMEMLIMIT set = %d; want 0", got)
	}
}

func TestCollectLessMindsGOGC(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "50") // the runtime read its own when the process began: nothing changes now
	collectLess()
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("with GOGC set, collectLess sets %d; want it to leave what was", got)
	}
	if err := os.Unsetenv("GOGC"); err != nil { // Setenv puts it back
		t.Fatal(err)
	}
	collectLess()
	if got := debug.SetGCPercent(100); got != garbage {
		t.Errorf("without GOGC, collectLess sets %d; want %d", got, garbage)
	}
}
