package main

import (
	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
)

// completionCmd prints what makes a shell complete the commands and flags of headgate. The shell then runs headgate with the
// variable COMP_LINE, and prepare answers.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run prints the script for this executable.
func (c *completionCmd) Run(k *kong.Context, t *terminal) error {
	k.Stdout, k.Exit = t.out, func(int) {} // the library ends the process
	return (&kongcompletion.Completion{Shell: c.Shell, Code: true}).Run(k)
}
