package headgate_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	target = regexp.MustCompile(`(?m)^([a-z0-9-]+):.* ## \S`)
	inline = regexp.MustCompile("`make ([a-z0-9-]+)[^`]*`")
	typed  = regexp.MustCompile(`^\s*(?:\$ )?make ([a-z0-9-]+)`)
)

// named are the make targets that a page names: as code in a sentence, or as a line of a block of code.
func named(page string) []string {
	var names []string
	code := false
	for line := range strings.Lines(page) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			code = !code
			continue
		}
		if m := typed.FindStringSubmatch(line); code && m != nil {
			names = append(names, m[1])
		}
		for _, m := range inline.FindAllStringSubmatch(line, -1) {
			names = append(names, m[1])
		}
	}
	return names
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestPagesNameTargetsThatExist(t *testing.T) {
	targets := map[string]bool{}
	for _, m := range target.FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "README.md") {
		for _, name := range named(read(t, page)) {
			if !targets[name] {
				t.Errorf("%s names make %s; the Makefile has %q", page, name, slices.Sorted(maps.Keys(targets)))
			}
		}
	}
	readme := named(read(t, "README.md"))
	for _, name := range []string{"dev", "test"} {
		if !slices.Contains(readme, name) {
			t.Errorf("README.md does not name make %s", name)
		}
	}
}

func TestMakeHelpsFirstAndWithEveryTarget(t *testing.T) {
	makefile := read(t, "Makefile")
	first := regexp.MustCompile(`(?m)^([a-z]+):`).FindStringSubmatch(makefile)
	if first == nil || first[1] != "help" {
		t.Errorf("the first target is %q; want help", first)
	}
	_, phony, _ := strings.Cut(makefile, ".PHONY: ")
	phony, _, _ = strings.Cut(phony, "\n")
	var got []string
	for _, m := range target.FindAllStringSubmatch(makefile, -1) {
		got = append(got, m[1])
	}
	if want := strings.Fields(phony); !slices.Equal(got, want) {
		t.Errorf("targets with a line for make help = %q; want those of .PHONY, %q", got, want)
	}
}

func TestNamed(t *testing.T) {
	page := "Run `make dev`, then make sure that `make fuzz FUZZTIME=1m` ends.\n```sh\n$ make test\nmake build # binaries\necho make nothing\n```\nmake sense\n"
	if got, want := named(page), []string{"dev", "fuzz", "test", "build"}; !slices.Equal(got, want) {
		t.Errorf("named = %q; want %q", got, want)
	}
}
