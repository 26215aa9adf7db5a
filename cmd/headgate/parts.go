package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/embedded"
)

// This file has what headgate dev and headgate serve share, beside the list of the parts (builtin.go).

// partArgs are the settings with which a part runs inside another program: those that connect it to the server of the
// process. nkey is the file of a seed, or empty.
func partArgs(source stream.Source, adminListen, natsURL, nkey string) []string {
	return []string{
		"--source=" + string(source), "--admin-listen=" + adminListen, "--nats-url=" + natsURL, "--nats-nkey=" + nkey,
		"--nats-creds=", "--nats-ca=", "--nats-cert=", "--nats-key=",
	}
}

// A port is an address that a flag sets.
type port struct {
	flag    string
	address *string
	// choose replaces port 0 by one that is free now, for others to know it before its listener is there, when it can be taken.
	choose bool
}

// claimPorts checks that all ports are free before anything starts.
func claimPorts(ports ...port) error {
	for _, p := range ports {
		ln, err := process.Listen(p.flag, *p.address)
		if err != nil {
			return err
		}
		defer ln.Close()
		if p.choose {
			*p.address = ln.Addr().String()
		}
	}
	return nil
}

// dialAddress returns the address at which a client on this machine reaches a listener.
func dialAddress(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// watchFolder returns an error when the folder of the server's data is gone, and nil when ctx ends: the server would answer
// from files that nobody can see, and a later start would find nothing.
func watchFolder(ctx context.Context, folder string) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := os.Stat(embedded.LockFile(folder)); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("the data folder %s was deleted while the process ran: start it again", folder)
			}
		}
	}
}
