// Package pgtest gives a test a real PostgreSQL server, started from the binaries that are installed. What it starts
// has ended, and its folder is gone, when the test has; where nothing is installed, the test is skipped.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// ErrNotInstalled says what to install: there are no binaries to start.
var ErrNotInstalled = errors.New("no PostgreSQL server is installed, which this test needs: apt-get install postgresql (Debian), or put initdb and postgres in PATH")

// Server is a PostgreSQL server with an empty database. It does not wait for the disk, so that tests are quick: what it
// committed survives the end of its processes all the same.
type Server struct {
	// DSN connects to the database as its superuser, over a Unix socket.
	DSN string

	guard  io.Closer     // its end is the server's
	exited chan struct{} // closed when the server has
	said   *bytes.Buffer // read it when exited is closed only
}

// guard runs the server until its own input ends, which it does also when the test is killed, and removes the folder.
const guard = `
exec 3<&0
dir=$PWD
"$@" </dev/null 3<&- & server=$!
{ read -r _ <&3; kill -INT $server; } & guard=$!
wait $server
kill $guard 2>/dev/null
cd / && rm -rf "$dir"
`

// New starts a server that ends with the test, or skips the test when none is installed.
func New(t testing.TB) *Server {
	t.Helper()
	s, err := Start()
	if errors.Is(err, ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Start starts a server for all tests of a package: for its TestMain, which stops it.
func Start() (*Server, error) {
	bin, ok := binaries()
	if !ok {
		return nil, ErrNotInstalled
	}
	// Not a test's own folder, which another user may not enter: PostgreSQL refuses to run as root.
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		return nil, err
	}
	s, err := start(bin, dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func start(bin, dir string) (*Server, error) {
	attr := &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the test, which then stops the server
	if os.Getuid() == 0 {
		var err error
		if attr.Credential, err = unprivileged(); err != nil {
			return nil, err
		}
		if err := os.Chown(dir, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
			return nil, err
		}
	}
	said := new(bytes.Buffer)
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.SysProcAttr = dir, attr
		cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=" + os.Getenv("PATH")}
		cmd.Stdout, cmd.Stderr = said, said
		return cmd
	}
	data := filepath.Join(dir, "data")
	initdb := command(filepath.Join(bin, "initdb"), "-D", data, "-U", "headgate", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if err := initdb.Run(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, said)
	}
	said.Reset()
	server := command("/bin/sh", "-c", guard, "guard", filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=",
		"-c", "max_connections=200", "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "shared_buffers=32MB")
	end, err := server.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	s := &Server{
		DSN:   fmt.Sprintf("host=%s user=headgate dbname=postgres sslmode=disable", dir),
		guard: end, exited: make(chan struct{}), said: said,
	}
	go func() {
		_ = server.Wait()
		close(s.exited)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for {
		err := s.answers()
		if err == nil {
			return s, nil
		}
		select {
		case <-tick.C:
		case <-s.exited:
			return nil, fmt.Errorf("postgres ended:\n%s", said)
		case <-late:
			return nil, errors.Join(fmt.Errorf("postgres does not answer within %s: %w", patience, err), s.Stop())
		}
	}
}

// Stop ends the server and all of its sessions.
func (s *Server) Stop() error {
	_ = s.guard.Close()
	select {
	case <-s.exited:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("postgres did not stop within %s", patience)
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
func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if errUID == nil && errGID == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
}
