// Command ingress receives Codat's webhooks and stores them in JetStream.
package main

import (
	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
)

func main() { process.Main("ingress", help, new(ingress.Settings), ingress.Run) }

const help = "Receives Codat's signed webhooks and stores each of them in JetStream before it answers."
