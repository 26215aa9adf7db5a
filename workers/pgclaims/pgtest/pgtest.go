// Package pgtest gives a test a real PostgreSQL server, started from the binaries that are installed. What it starts
// has ended, and its folder is gone, when the test has; where nothing is installed, the test is skipped.
package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// patience is how long a server may take to start or to stop: machines on which tests run are slow at times.
const patience = time.Minute

// Server is a PostgreSQL server with an empty database. It does not wait for the disk, so that tests are quick: what it
// committed survives the end of its processes all the same.
type Server struct {
	// DSN connects to the database as its superuser, over a Unix socket that nobody else reaches.
	DSN string
}

// New starts a server, or skips the test when there are no binaries to start.
func New(t testing.TB) *Server {
	t.Helper()
	bin, ok := binaries()
	if !ok {
		t.Skip("no PostgreSQL server is installed, which this test needs: apt-get install postgresql (Debian), or put initdb and postgres in PATH")
	}
	// Not t.TempDir, which another user may not enter: PostgreSQL refuses to run as root.
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the server's folder: %v", err)
		}
	})
	attr := &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the test, which then stops the server
	if os.Getuid() == 0 {
		attr.Credential = unprivileged(t)
		if err := os.Chown(dir, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
		var said bytes.Buffer
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, attr
		cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=" + os.Getenv("PATH")}
		cmd.Stdout, cmd.Stderr = &said, &said
		return cmd, &said
	}
	data := filepath.Join(dir, "data")
	initdb, said := run("initdb", "-D", data, "-U", "headgate", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if err := initdb.Run(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, said)
	}
	server, said := run("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "max_connections=200",
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "shared_buffers=32MB")
	if err := server.Start(); err != nil {
		t.Fatalf("postgres: %v", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = server.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT) // fast: open sessions are ended
		select {
		case <-exited:
		case <-time.After(patience):
			_ = server.Process.Kill()
			<-exited
			t.Errorf("postgres did not stop within %s:\n%s", patience, said)
		}
	})

	s := &Server{DSN: fmt.Sprintf("host=%s user=headgate dbname=postgres sslmode=disable", dir)}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for {
		err := s.answers()
		if err == nil {
			return s
		}
		select {
		case <-tick.C:
		case <-exited:
			t.Fatalf("postgres ended:\n%s", said)
		case <-late:
			t.Fatalf("postgres does not answer within %s: %v", patience, err)
		}
	}
}

func (s *Server) answers() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// Pool is a pool of connections to the server that ends with the test. change sees its configuration before.
func (s *Server) Pool(t testing.TB, change ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(s.DSN)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 24
	for _, c := range change {
		c(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// binaries is the folder of initdb and postgres: that of PATH, or the newest that Debian has put where PATH does not
// lead.
func binaries() (string, bool) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), true
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", false
	}
	version := func(path string) int {
		v, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return v
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })
	return filepath.Dir(newest), true
}

// unprivileged is whom the server runs as when the test is root.
func unprivileged(t testing.TB) *syscall.Credential {
	t.Helper()
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if errUID == nil && errGID == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	t.Fatal("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
	return nil
}
