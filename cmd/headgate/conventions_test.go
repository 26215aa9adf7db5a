package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/headgate/headgate/pkg/codat"
)

// leaves are the commands that do something, by name.
func leaves(t *testing.T) map[string]*kong.Node {
	t.Helper()
	all := nodes(grammar(t))
	for name, n := range all {
		if len(n.Children) > 0 {
			delete(all, name)
		}
	}
	return all
}

// flag returns a flag of a command, or nil.
func flag(n *kong.Node, name string) *kong.Flag {
	i := slices.IndexFunc(n.Flags, func(f *kong.Flag) bool { return f.Name == name })
	if i < 0 {
		return nil
	}
	return n.Flags[i]
}

func TestCommands_NameTheirExitCodes(t *testing.T) {
	t.Parallel()
	for name, n := range leaves(t) {
		for _, code := range []string{"0 ", "1 ", "2 ", "3 ", "4 ", "130 "} {
			_, codes, _ := strings.Cut(n.Detail, "Exit codes: ")
			if !strings.Contains(codes, code) {
				t.Errorf("the help of headgate %s does not say what exit code %sis: %q", name, code, n.Detail)
			}
		}
	}
}

func TestCommands_RefuseUnknownFlagsAndFormats(t *testing.T) {
	t.Parallel()
	for name, n := range leaves(t) {
		wrong := []string{"--no-such-flag"}
		if flag(n, "output") != nil {
			wrong = append(wrong, "--output=xml")
		}
		for _, w := range wrong {
			c := headgate(t, 2, append(strings.Fields(name), w)...)
			if c.out.String() != "" || len(c.err.lines()) != 1 {
				t.Errorf("headgate %s %s prints %q and says %q; want one line on stderr", name, w, &c.out, &c.err)
			}
		}
	}
}

// A word means the same in every command that has it.
func TestCommands_FilterByTheSameWords(t *testing.T) {
	t.Parallel()
	one, several := reflect.TypeFor[string](), reflect.TypeFor[[]string]()
	want := map[string][]reflect.Type{
		"type":       {reflect.TypeFor[codat.Pattern](), reflect.TypeFor[[]codat.Pattern]()},
		"company":    {one},
		"connection": {one},
		"worker":     {one, several},
		"cause":      {one},
		"since":      {reflect.TypeFor[timeFlag]()},
		"until":      {reflect.TypeFor[timeFlag]()},
		"id":         {one, several},
		"limit":      {reflect.TypeFor[limitFlag]()},
		"rate":       {reflect.TypeFor[float64]()},
		"dry-run":    {reflect.TypeFor[bool]()},
		"yes":        {reflect.TypeFor[bool]()},
		"output":     {one},
		"json":       {reflect.TypeFor[bool]()},
	}
	others := map[string]string{
		"pause --until":             "the end of a pause is to come",
		"quarantine release --type": "a message becomes an event of one type",
		"remove source --yes":       "the name of the source is the answer",
	}
	for name, n := range leaves(t) {
		for _, f := range n.Flags {
			types, known := want[f.Name]
			if other := name + " --" + f.Name; !known || others[other] != "" {
				delete(others, other)
				continue
			}
			if typ := f.Target.Type(); !slices.Contains(types, typ) {
				t.Errorf("headgate %s --%s is a %s; in other commands it is a %s", name, f.Name, typ, types[0])
			}
		}
		if flag(n, "until") != nil && flag(n, "since") == nil && name != "pause" {
			t.Errorf("headgate %s has --until, and no --since", name)
		}
	}
	for other := range others {
		t.Errorf("headgate %s is no exception any more", other)
	}
}
