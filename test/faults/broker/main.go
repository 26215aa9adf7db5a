//go:build faults

// Command broker is the server that headgate dev runs inside itself, as a process of its own: its system calls can be
// counted without those of anything else. It prints its address for clients, and runs until it is told to stop.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os/signal"
	"syscall"

	"github.com/headgate/headgate/pkg/stream/embedded"
)

func main() {
	var o embedded.Options
	flag.StringVar(&o.Dir, "dir", "", "folder of its state")
	flag.BoolVar(&o.LazySync, "lazy", false, "do not wait for the disk")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server, err := embedded.Start(o)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(server.ClientURL())
	<-ctx.Done()
	if err := server.Shutdown(); err != nil {
		log.Fatal(err)
	}
}
