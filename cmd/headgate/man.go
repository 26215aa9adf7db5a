package main

import (
	"io"
	"strings"

	"github.com/alecthomas/kong"
	mangokong "github.com/alecthomas/mango-kong"
	"github.com/muesli/roff"
)

// manCmd prints the manual page.
type manCmd struct{}

// Run prints the page in section 1, as roff.
func (c *manCmd) Run(k *kong.Context, t *terminal) error {
	summary, details, _ := strings.Cut(k.Model.Help, "\n")
	k.Model.Help = summary
	k.Model.Detail = strings.TrimSpace(details + "\n\n" + k.Model.Detail)
	_, err := io.WriteString(t.out, mangokong.NewManPage(1, k.Model).Build(roff.NewDocument()))
	return err
}
