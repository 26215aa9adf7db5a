package streamtest

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Damage stops the server, flips one bit of a text in the stored messages of a stream, and starts the server again. The
// text is in one message only. The server does not notice it before it reads the message.
func (s *Server) Damage(stream, text string) {
	s.t.Helper()
	s.damage(stream, text, func(_ []byte, at int) int { return at })
}

// DamageLength is Damage of the length of the record that has the text, by which the server finds the records after it.
func (s *Server) DamageLength(stream, text string) {
	s.t.Helper()
	s.damage(stream, text, recordLength)
}

func (s *Server) damage(stream, text string, place func(stored []byte, at int) int) {
	s.t.Helper()
	before := s.NC.Stats().Reconnects
	s.Stop()
	flipBit(s.t, s.opts.Dir, stream, text, place)
	s.Start()
	Wait(s.t, func() bool { return s.NC.Stats().Reconnects > before && s.NC.IsConnected() }, "the client is connected again")
}

// Dir is the folder of the server's data. Change what is in it only between Stop and Start.
func (s *Server) Dir() string { return s.opts.Dir }

// Damage kills a node, flips one bit of a text in its copy of a stream, and starts the node again. The text is in one
// message only.
func (c *Cluster) Damage(i int, stream, text string) {
	c.t.Helper()
	c.damage(i, stream, text, func(_ []byte, at int) int { return at })
}

// DamageLength is Damage of the length of the record that has the text, by which the node finds the records after it.
func (c *Cluster) DamageLength(i int, stream, text string) {
	c.t.Helper()
	c.damage(i, stream, text, recordLength)
}

func (c *Cluster) damage(i int, stream, text string, place func(stored []byte, at int) int) {
	c.t.Helper()
	c.Kill(i)
	flipBit(c.t, c.nodes[i].opts.StoreDir, stream, text, place)
	c.Restart(i)
	c.WaitReady()
}

// Wipe kills a node, empties its folder and starts it again. Its copies come from the other nodes.
func (c *Cluster) Wipe(i int) {
	c.t.Helper()
	c.Kill(i)
	if err := os.RemoveAll(c.nodes[i].opts.StoreDir); err != nil {
		c.t.Fatal(err)
	}
	c.Restart(i)
	c.WaitReady()
}

// NodeName is the name of a server.
func (c *Cluster) NodeName(i int) string { return nodeName(i) }

// recordLength returns where the length of the record is that has the byte at a place: each record of a block begins with it,
// in four bytes, of which the highest bit says that the message has headers.
func recordLength(stored []byte, at int) int {
	begin := 0
	for {
		end := begin + int(binary.LittleEndian.Uint32(stored[begin:])&^(1<<31))
		if end > at || end <= begin {
			return begin
		}
		begin = end
	}
}

// flipBit flips a bit in a file of a stream, of the byte that place returns for the place of the text.
func flipBit(t testing.TB, dir, stream, text string, place func(stored []byte, at int) int) {
	t.Helper()
	found := 0
	folder := filepath.Join("streams", stream, "msgs")
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".blk") || !strings.HasSuffix(filepath.Dir(path), folder) {
			return err
		}
		stored, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(stored, []byte(text))
		if at < 0 {
			return nil
		}
		found++
		stored[place(stored, at)] ^= 1
		return os.WriteFile(path, stored, 0o600)
	})
	if err != nil || found != 1 {
		t.Fatalf("the text %q is in %d files of stream %s below %s (%v); want 1", text, found, stream, dir, err)
	}
}
