package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers/builtin"
	"github.com/headgate/headgate/workers/relay"
)

const operate = "../../docs/operate.md"

// operateMu guards the page: tests that write to it run in parallel.
var operateMu sync.Mutex

// generated compares a part of docs/operate.md with want. With UPDATE set, it writes the part instead.
func generated(t testing.TB, name, want string) {
	t.Helper()
	operateMu.Lock()
	defer operateMu.Unlock()
	from := "<!-- " + name + ": made by `UPDATE=1 go test ./cmd/headgate -run TestOperate` -->\n"
	to := "<!-- end of " + name + " -->"
	text, err := os.ReadFile(operate)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), from)
	have, after, okToo := strings.Cut(rest, to)
	if !ok || !okToo {
		t.Fatalf("%s has no place for the %s", operate, name)
	}
	if have == want {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("the %s in %s are not those of the programs: run UPDATE=1 go test ./cmd/headgate -run TestOperate", name, operate)
	}
	if err := os.WriteFile(operate, []byte(before+from+want+to+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What an event costs each server that has a copy, in bytes. docs/operate.md says how each was measured.
const (
	eventBody    = 800 // half of the examples are smaller
	eventRest    = 616 // its headers and its record, on disk and of the stream's limit
	claimCounted = 214 // of the bucket's limit
	claimDisk    = 363
	idMemory     = 267
	claimMemory  = 564

	eventDays = int(stream.DefaultMaxAge / (24 * time.Hour))
	claimDays = eventDays + 7
	full      = 0.6 // of a limit; the alert comes at 0.7
	serverRSS = 150e6
	gib       = 1 << 30
)

// The table of capacity is made of what one event costs and of what provision makes.
func TestOperate_HasCapacityTable(t *testing.T) {
	t.Parallel()
	rest := float64(stream.DefaultDeadMaxBytes+stream.DefaultParkedMaxBytes+stream.DefaultStateMaxBytes) + 112<<20 // what operators did, running workers, what has not come
	var b strings.Builder
	b.WriteString("\n| events a day | ids in the window | `--max-bytes` | `--claims-max-bytes` | `NATS_MAX_FILE_STORE` | disk of each server | memory for ids | memory of each server |\n" +
		"|---|---|---|---|---|---|---|---|\n")
	for _, daily := range []int{1_000, 10_000, 100_000, 300_000, 1_000_000} {
		events, claims := float64(daily*eventDays), float64(daily*claimDays)
		maxBytes := max(stream.DefaultMaxBytes, steps(events*(eventBody+eventRest)/full))
		claimsMax := max(stream.DefaultClaimsMaxBytes, steps(claims*claimCounted/full))
		store := maxBytes + claimsMax + rest
		disk := store + claimsMax*(float64(claimDisk)/claimCounted-1)
		ids := events*idMemory + claims*claimMemory
		memory := math.Exp2(math.Ceil(math.Log2(max(gib/2, (serverRSS+ids)*1.5))))
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %.0fGB | %.0f GiB | %s | %s |\n", thousands(daily), thousands(int(events)),
			binary(maxBytes), binary(claimsMax), math.Ceil(store/gib), math.Ceil(disk/gib), decimal(ids), binary(memory))
	}
	b.WriteString("\n")
	generated(t, "capacity", b.String())
}

// The servers of deploy/k8s/base have room for what provision reserves when nothing else is said.
func TestOperate_SmallestServersHaveRoomForDefaults(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/k8s/base/nats/statefulset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var store, volume int
	for _, one := range []struct {
		pattern string
		value   *int
	}{{`NATS_MAX_FILE_STORE, value: (\d+)GB`, &store}, {`storage: (\d+)Gi`, &volume}} {
		found := regexp.MustCompile(one.pattern).FindSubmatch(text)
		if found == nil {
			t.Fatalf("statefulset.yaml has no %s", one.pattern)
		}
		*one.value, _ = strconv.Atoi(string(found[1])) // digits
	}
	needed := float64(stream.DefaultMaxBytes+stream.DefaultDeadMaxBytes+stream.DefaultParkedMaxBytes) + 112<<20
	for _, w := range builtin.Workers() {
		needed += float64(stream.DefaultClaimsMaxBytes + len(w.Spec.State)*stream.DefaultStateMaxBytes)
	}
	if float64(store)*gib < needed || volume <= store {
		t.Errorf("NATS_MAX_FILE_STORE is %d GiB on a volume of %d; the defaults reserve %.1f, and a volume has more than what streams take", store, volume, needed/gib)
	}
}

// steps is the next limit: a power of two up to 4 GiB, and a multiple of 4 GiB above.
func steps(bytes float64) float64 {
	if bytes > 4*gib {
		return math.Ceil(bytes/(4*gib)) * 4 * gib
	}
	return math.Exp2(math.Ceil(math.Log2(bytes)))
}

func binary(bytes float64) string {
	if bytes < gib {
		return fmt.Sprintf("%.0fMiB", bytes/(1<<20))
	}
	return fmt.Sprintf("%.0fGiB", bytes/gib)
}

func decimal(bytes float64) string {
	if bytes < 1e9 {
		return fmt.Sprintf("%.0f MB", bytes/1e6)
	}
	return fmt.Sprintf("%.1f GB", bytes/1e9)
}

func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return thousands(n/1000) + fmt.Sprintf(",%03d", n%1000)
}

// What an event and its claim cost, through the real ingress and the real worker, is what the table is made of.
func TestOperate_KnowsCostOfEvent(t *testing.T) {
	t.Parallel()
	const count = 10
	c := startDev(t, t.TempDir(), "--no-examples")
	c.out.says(t, "Next")
	args := slices.DeleteFunc(next(t, c.out.String(), "send"), func(a string) bool { return a == "connection.disconnected" })
	example, _ := examples.Of("connection.connected")
	head, err := codat.Read(example.Body)
	if err != nil {
		t.Fatal(err)
	}
	for i := range count { // each of a connection of its own: no attempt fails, which a claim would remember
		other := fmt.Sprintf("%.*s%04d", len(head.Connection)-4, head.Connection, i)
		body := strings.ReplaceAll(string(example.Body), head.Connection, other)
		begin(t, body, append(slices.Clone(args), "--file", "-")...).exit(0)
	}
	nc, err := nats.Connect(at(t, c.out.String(), "NATS"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	state := func(name string) jetstream.StreamState {
		st, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return st.CachedInfo().State
	}
	claims := "KV_" + source.ClaimsBucket("connections")
	streamtest.Wait(t, func() bool { s := state(claims); return s.Msgs == count && s.LastSeq == 2*count }, "every event to be done")

	for name, cost := range map[string]struct{ have, want float64 }{
		"an event beside its body": {float64(state(source.Stream()).Bytes)/count - float64(len(example.Body)), eventRest},
		"a claim":                  {float64(state(claims).Bytes) / count, claimCounted},
	} {
		if math.Abs(cost.have-cost.want) > cost.want/10 {
			t.Errorf("%s costs %.0f bytes; docs/operate.md is made with %.0f: measure again as it says, and change both", name, cost.have, cost.want)
		}
	}
}

var (
	shBlock  = regexp.MustCompile("(?s)```sh\n(.*?)```")
	codeSpan = regexp.MustCompile("`([^`\n]+)`")
	ours     = regexp.MustCompile(`(?:^|[\s(;/])(headgate|ingress|worker-[a-z]+) ([^|;&)]*)`)
	flagName = regexp.MustCompile(`^--([a-z-]+)`)
)

// An operator types what the pages say at three in the morning: every command in them is one, and has the flags.
func TestOperate_NamesExistingCommandsAndFlags(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	parser, err := kong.New(new(commands), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]map[string]bool{}
	for name, settings := range map[string]any{ingressPart.name: new(ingress.Settings), "worker-relay": new(relay.Settings), builtin.Workers()[0].Program(): builtin.Workers()[0].Settings()} {
		all, err := process.Flags(settings)
		if err != nil {
			t.Fatal(err)
		}
		programs[name] = map[string]bool{}
		for _, f := range all {
			programs[name][f.Name] = true
		}
	}
	seen := 0
	for _, page := range append(pages, "../../README.md", "../../deploy/nats/README.md", "../../deploy/k8s/README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, block := range shBlock.FindAllStringSubmatch(string(text), -1) {
			lines = append(lines, strings.Split(strings.ReplaceAll(block[1], "\\\n", " "), "\n")...)
		}
		for _, span := range codeSpan.FindAllStringSubmatch(shBlock.ReplaceAllString(string(text), ""), -1) {
			lines = append(lines, span[1])
		}
		for _, line := range lines {
			line, _, _ = strings.Cut(line, " #")
			for _, m := range ours.FindAllStringSubmatch(line, -1) {
				words := strings.Fields(m[2])
				if strings.Contains(line, "go test") || strings.Contains(line, "-n "+m[0][strings.Index(m[0], m[1]):]) || len(words) > 0 && words[0] == "…" {
					continue // a package, a namespace, or any command
				}
				flags, ok := programs[m[1]], true
				switch {
				case m[1] == "headgate":
					flags, ok = commandFlags(parser.Model.Node, words)
				case flags == nil: // an example of a worker in another repository
					flags = programs[builtin.Workers()[0].Program()]
				}
				if !ok {
					t.Errorf("%s says %q, and headgate has no such command", page, line)
					continue
				}
				seen++
				for _, w := range words {
					if f := flagName.FindStringSubmatch(w); f != nil && !flags[f[1]] {
						t.Errorf("%s says %q, and %s has no --%s", page, line, m[1], f[1])
					}
				}
			}
		}
	}
	if seen < 60 {
		t.Errorf("the pages have %d commands; want those that they had, 60 and more", seen)
	}
}

// commandFlags are those of the command that words begin with.
func commandFlags(n *kong.Node, words []string) (map[string]bool, bool) {
	flags := map[string]bool{}
	for {
		for _, f := range n.Flags {
			flags[f.Name] = true
		}
		if len(n.Children) == 0 {
			return flags, true
		}
		if len(words) == 0 || strings.HasPrefix(words[0], "--") {
			return flags, n.Parent != nil || len(words) > 0
		}
		i := slices.IndexFunc(n.Children, func(c *kong.Node) bool { return slices.Contains(strings.Split(words[0], "|"), c.Name) })
		if i < 0 {
			return nil, false
		}
		n, words = n.Children[i], words[1:]
	}
}

var (
	heading = regexp.MustCompile(`(?m)^#{2,3} (.+)$`)
	linked  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	noSlug  = regexp.MustCompile(`[^a-z0-9 _-]`)
)

func anchors(page string) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		all[strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return all
}

// Every link on the page leads somewhere, and every part of it is in its table of contents.
func TestOperate_LinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	page := read(operate)
	for _, m := range linked.FindAllStringSubmatch(page, -1) {
		file, anchor, _ := strings.Cut(m[1], "#")
		if strings.Contains(file, "://") {
			continue
		}
		target := operate
		if file != "" {
			target = filepath.Join(filepath.Dir(operate), file)
		}
		if info, err := os.Stat(target); err != nil {
			t.Errorf("%s: %v", m[1], err)
		} else if info.IsDir() {
			target = filepath.Join(target, "README.md")
		}
		if anchor != "" && !anchors(read(target))[anchor] {
			t.Errorf("%s: there is no such heading", m[1])
		}
	}
	contents, _, _ := strings.Cut(page, "\n## ")
	for anchor := range anchors(page) {
		if !strings.HasPrefix(anchor, "headgate") && !strings.Contains(contents, "(#"+anchor+")") {
			t.Errorf("#%s is not in the table of contents", anchor)
		}
	}
}
