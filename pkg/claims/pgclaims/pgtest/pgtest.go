// Package pgtest starts a PostgreSQL server, and PgBouncer, for a test from the installed binaries. They end and their folders
// are removed with the test. When one is not installed, the test is skipped.
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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// patience bounds the start and the stop of a server.
const patience = time.Minute

// ErrNotInstalled means that PostgreSQL is not installed; its text says what to install.
var ErrNotInstalled = errors.New("no PostgreSQL server is installed, which this test needs: apt-get install postgresql (Debian), or put initdb and postgres in PATH")

// Server is a PostgreSQL server with an empty database. It does not wait for the disk, so that tests are quick; a commit
// survives the end of its processes nevertheless.
type Server struct {
	// DSN connects to the database as its superuser, over a Unix socket.
	DSN string

	guard  io.Closer     // its end is the server's
	exited chan struct{} // closed when the server has
	said   *bytes.Buffer // read it when exited is closed only

	databases atomic.Int64 // that Database has made
}

// guard runs the server until its input ends, also because the test was killed, and removes the folder.
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
	// Not the test's own folder: PostgreSQL refuses to run as root, and another user cannot enter that folder.
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
	c, err := newCommands(dir)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	if err := c.command(filepath.Join(bin, "initdb"), "-D", data, "-U", "headgate", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync").Run(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, c.said)
	}
	c.said.Reset()
	return c.serve(fmt.Sprintf("host=%s user=headgate dbname=postgres sslmode=disable", dir),
		filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=",
		"-c", "max_connections=200", "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "shared_buffers=32MB")
}

// bouncer is the configuration of PgBouncer. So few connections to the server are shared by all transactions.
const bouncer = `
[databases]
* = host=%[1]s user=headgate
[pgbouncer]
pool_mode = transaction
default_pool_size = 8
auth_type = any
listen_port = 6432
listen_addr =
unix_socket_dir = %[2]s
`

// PgBouncer returns the same database behind PgBouncer in transaction mode, where each transaction may get another
// connection. PgBouncer ends with the test. The test is skipped when it is not installed.
func (s *Server) PgBouncer(t testing.TB) *Server {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/pgbouncer") // where Debian installs it, outside most users' PATH
	}
	if err != nil {
		t.Skip("no PgBouncer is installed, which this test needs: apt-get install pgbouncer (Debian)")
	}
	config, err := pgx.ParseConfig(s.DSN)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		t.Fatal(err)
	}
	ini := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(ini, fmt.Appendf(nil, bouncer, config.Host, dir), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := newCommands(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.serve(fmt.Sprintf("host=%s port=6432 user=headgate dbname=%s sslmode=disable", dir, config.Database), path, ini)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// commands run in a folder, and not as root.
type commands struct {
	dir  string
	attr *syscall.SysProcAttr
	said *bytes.Buffer
}

func newCommands(dir string) (*commands, error) {
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
	return &commands{dir, attr, new(bytes.Buffer)}, nil
}

func (c *commands) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.SysProcAttr = c.dir, c.attr
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = c.said, c.said
	return cmd
}

// serve starts a server and waits until it answers.
func (c *commands) serve(dsn, name string, args ...string) (*Server, error) {
	server := c.command("/bin/sh", append([]string{"-c", guard, "guard", name}, args...)...)
	end, err := server.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s := &Server{DSN: dsn, guard: end, exited: make(chan struct{}), said: c.said}
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
			return nil, fmt.Errorf("%s ended:\n%s", name, c.said)
		case <-late:
			return nil, errors.Join(fmt.Errorf("%s does not answer within %s: %w", name, patience, err), s.Stop())
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
		return fmt.Errorf("the server did not stop within %s", patience)
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

// Database returns the server with a new, empty database, which is dropped with the test.
func (s *Server) Database(t testing.TB) *Server {
	t.Helper()
	name := fmt.Sprintf("test%d", s.databases.Add(1))
	s.exec(t, "CREATE DATABASE "+name)
	t.Cleanup(func() { s.exec(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	return &Server{DSN: s.DSN + " dbname=" + name}
}

func (s *Server) exec(t testing.TB, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN)
	if err == nil {
		_, err = conn.Exec(ctx, statement)
		err = errors.Join(err, conn.Close(ctx))
	}
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// Pool returns a connection pool to the server, which is closed with the test. change may edit its configuration.
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

// binaries returns the folder of initdb and postgres: the one in PATH, or else the newest of Debian's folders.
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

// unprivileged returns the user of the server when the test runs as root.
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
