package main

import (
	"encoding/base64"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nkeys"

	"github.com/headgate/headgate/pkg/console"
)

// grammar returns the commands of headgate with their help.
func grammar(t testing.TB) *kong.Kong {
	t.Helper()
	k, err := kong.New(new(commands), kong.Name("headgate"), kong.DefaultEnvars("HEADGATE"), kong.Vars{"version": ""}, kong.PostBuild(prepare))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// nodes returns all commands by name, and headgate itself as "".
func nodes(k *kong.Kong) map[string]*kong.Node {
	all := map[string]*kong.Node{}
	var walk func(*kong.Node)
	walk = func(n *kong.Node) {
		all[commandName(n)] = n
		for _, child := range n.Children {
			walk(child)
		}
	}
	walk(k.Model.Node)
	return all
}

// exampleArgs returns the arguments of each call of headgate in an example.
func exampleArgs(t testing.TB, example string) [][]string {
	t.Helper()
	var all [][]string
	for part := range strings.SplitSeq(example, "|") {
		part, _, _ = strings.Cut(part, " > ")
		words := strings.Fields(strings.ReplaceAll(part, "'", ""))
		if words[0] == "headgate" {
			all = append(all, words[1:])
		}
	}
	if len(all) == 0 {
		t.Errorf("%q does not call headgate", example)
	}
	return all
}

// TestExamples_AreInTheHelpOfEveryCommand and work: each parses, in a folder that has its files, as the command that it is for.
func TestExamples_AreInTheHelpOfEveryCommand(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := os.Symlink(filepath.Join(root, "docs"), "docs"); err != nil {
		t.Fatal(err)
	}
	writeNkey(t, "key")
	if err := os.WriteFile("webhook-key", []byte("whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o600); err != nil {
		t.Fatal(err)
	}
	token := "  - name: anna\n    token: " + console.HashToken("x") + "\n    rights: [view]\n"
	if err := os.WriteFile("users.yml", []byte("users:\n"+token), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"request.http", "headers.txt", "body.json"} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := nodes(grammar(t))
	for name, n := range all {
		examples, ok := helpExamples[name]
		if !ok {
			t.Errorf("headgate %s has no examples: add two to helpExamples", name)
			continue
		}
		if want := "Examples:\n\n    " + examples[0] + "\n    " + examples[1]; !strings.HasPrefix(n.Detail, want) {
			t.Errorf("the help of headgate %s is %q; want it to begin with %q", name, n.Detail, want)
		}
		for _, example := range examples {
			for _, args := range exampleArgs(t, example) {
				ctx, err := grammar(t).Parse(args)
				if err != nil {
					t.Errorf("%q: %v", example, err)
					continue
				}
				if got := commandName(ctx.Selected()); got != name && name != "" && !strings.HasPrefix(got, name) && !strings.HasPrefix(name, got) && got != "dead list" {
					t.Errorf("%q is an example of headgate %s; it calls %s", example, name, got)
				}
			}
		}
	}
	for name := range maps.Keys(helpExamples) {
		if all[name] == nil {
			t.Errorf("helpExamples has %q, which is no command", name)
		}
	}
}

// A shell runs headgate itself with the line in the environment. Where there is a bash, it takes the script too.
func TestCompletion_Completes(t *testing.T) {
	t.Parallel()
	script := headgate(t, 0, "completion", "bash").out.String()
	contains(t, script, "complete -o default -o bashdefault -C "+os.Args[0]+" headgate")
	commands := map[string]*exec.Cmd{"headgate": exec.Command(os.Args[0])}
	if bash, err := exec.LookPath("bash"); err == nil {
		commands["bash"] = exec.Command(bash, "--norc", "-c", script+"\ncomplete -p headgate >&2 && "+os.Args[0])
	}
	for name, c := range commands {
		c.Env = append(os.Environ(), asHeadgate+"=1", "COMP_LINE=headgate dead l", "COMP_POINT=15")
		if out, err := c.Output(); err != nil || string(out) != "list\n" {
			t.Errorf("%s completes to %q, %v; want list", name, out, err)
		}
	}
	for shell, word := range map[string]string{"zsh": "bashcompinit", "fish": "COMP_LINE"} {
		contains(t, headgate(t, 0, "completion", shell).out.String(), word)
	}
	headgate(t, 2, "completion", "cmd.exe")
}

func TestMan_HasEveryCommand(t *testing.T) {
	t.Parallel()
	page := headgate(t, 0, "man").out.String()
	if !strings.HasPrefix(page, ".TH HEADGATE 1 ") {
		t.Errorf("the page begins with %.60q", page)
	}
	contains(t, page, "exit code", "Examples:", "headgate doctor")
	for name := range nodes(grammar(t)) {
		for word := range strings.FieldsSeq(name) {
			if !strings.Contains(page, word) {
				t.Errorf("the page does not have %s", name)
			}
		}
	}
}

// writeNkey writes the seed of a user.
func writeNkey(t *testing.T, file string) {
	t.Helper()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, seed, 0o600); err != nil {
		t.Fatal(err)
	}
}
