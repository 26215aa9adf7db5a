package process

import (
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// UnknownVariables returns a warning for each HEADGATE_ variable in the environment that no flag of the grammars reads.
// Such a variable can be misspelt, or of another program or a later version: a program starts with it and warns. The
// variables that Kubernetes sets for a Service called headgate are left out.
func UnknownVariables(program string, grammars ...any) ([]string, error) {
	if len(unknownVariables(os.Environ(), nil)) == 0 { // to read the grammars takes as long as a short command
		return nil, nil
	}
	var known []string
	for _, grammar := range grammars {
		flags, err := Flags(grammar)
		if err != nil {
			return nil, err
		}
		known = append(known, variables(flags)...)
	}
	var warnings []string
	for _, name := range unknownVariables(os.Environ(), known) {
		warnings = append(warnings, unknownVariable(program, name))
	}
	return warnings, nil
}

// variables are the names of the environment variables that flags read.
func variables(flags []*kong.Flag) []string {
	var names []string
	for _, f := range flags {
		names = append(names, f.Envs...)
	}
	return names
}

// serviceLink matches what Kubernetes sets in a pod for a Service called headgate or headgate-something.
// HEADGATE_PORT is one only with an address as its value.
var serviceLink = regexp.MustCompile(`^HEADGATE(_[A-Z0-9_]+)?_(` +
	`SERVICE_HOST=|SERVICE_PORT(_[A-Z0-9_]+)?=|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=|PORT=(tcp|udp|sctp)://)`)

// unknownVariables are the names in environ that are not known, sorted.
func unknownVariables(environ, known []string) []string {
	var unknown []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "HEADGATE_") && !slices.Contains(known, name) && !serviceLink.MatchString(entry) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown
}

// unknownVariable is the text of the warning for one of them.
func unknownVariable(program, name string) string {
	return "unknown environment variable " + name + ": " + program + " --help lists the known ones"
}
