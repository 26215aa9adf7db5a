package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/backup"
	"github.com/headgate/headgate/pkg/stream/embedded"
)

// backupCmd writes a backup of all streams and buckets.
type backupCmd struct {
	Folder string `arg:"" help:"Folder for the backup, which must not exist. It has your customers' data."`

	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Run prints each stream that the backup has.
func (c *backupCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connectAs(ctx, t, "provision")
	if err != nil {
		return err
	}
	defer nc.close()
	return copyListing.report(t, c.outputFlags, func(each func(copiedStream) error) error {
		var printed error
		err := backup.Save(ctx, nc, c.Folder, func(s backup.Stream) { printed = errors.Join(printed, each(copiedStream(s))) })
		return errors.Join(err, printed)
	})
}

// restoreCmd makes all streams and buckets of a backup.
type restoreCmd struct {
	Folder   string `arg:"" type:"existingdir" help:"Folder of the backup."`
	Replicas int    `name:"replicas" env:"-" help:"Replicas of every stream and bucket: 3 in a cluster. By default as many as they had."`
	DataDir  string `name:"data-dir" env:"-" placeholder:"FOLDER" help:"Restore to the folder of a headgate serve that is stopped, and not to the servers of --nats-url. It must have none of the streams."`

	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a number of replicas that no server makes.
func (c *restoreCmd) Validate() error {
	switch {
	case c.Replicas < 0 || c.Replicas > 5:
		return errors.New("--replicas must be 1 to 5")
	case c.Replicas > 1 && c.DataDir != "":
		return errors.New("--replicas and --data-dir are both set: headgate serve has one replica")
	}
	return nil
}

// Run prints each stream that it made.
func (c *restoreCmd) Run(ctx context.Context, t *terminal) error {
	if c.DataDir != "" {
		return c.toFolder(ctx, t)
	}
	nc, err := c.connectAs(ctx, t, "provision")
	if err != nil {
		return err
	}
	defer nc.close()
	if err := c.restore(ctx, t, nc); err != nil {
		return err
	}
	_, err = fmt.Fprintln(t.err, "restart the servers, one after the other, before the ingress starts: they know the ids of restored events only then")
	return err
}

// unlimited is more than a disk has: the limit of headgate serve holds when it starts.
const unlimited = 1 << 50

// toFolder restores to the folder of headgate serve, with a server that runs meanwhile.
func (c *restoreCmd) toFolder(ctx context.Context, t *terminal) (err error) {
	server, err := embedded.Start(embedded.Options{Dir: c.DataDir, MaxStore: unlimited})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Shutdown()) }()
	nc, err := server.Conn()
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return c.restore(ctx, t, js)
}

func (c *restoreCmd) restore(ctx context.Context, t *terminal, js jetstream.JetStream) error {
	return copyListing.report(t, c.outputFlags, func(each func(copiedStream) error) error {
		var printed error
		err := backup.Restore(ctx, js, c.Folder, c.Replicas, func(s backup.Stream) { printed = errors.Join(printed, each(copiedStream(s))) })
		return errors.Join(err, printed)
	})
}

// A copiedStream is a stream that a backup has, or that was made of one.
type copiedStream struct {
	Name      string `json:"stream"`
	Messages  uint64 `json:"messages"`
	Consumers int    `json:"consumers"`
	Bytes     int64  `json:"bytes"` // of its copy in the backup, compressed
}

var copyListing = listing[copiedStream]{
	noun: "stream",
	id:   func(s copiedStream) string { return s.Name },
	text: func(s copiedStream) string {
		return fmt.Sprintf("%s: %d messages, %d consumers, %d bytes", s.Name, s.Messages, s.Consumers, s.Bytes)
	},
}
