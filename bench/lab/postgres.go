package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// ErrNoPostgres says that PostgreSQL is not installed.
var ErrNoPostgres = errors.New("no PostgreSQL server is installed")

// Postgres starts a PostgreSQL server from the binaries that are installed, with an empty database to which dsn
// connects.
func (l *Lab) Postgres(ctx context.Context, fsync bool) (p *Process, dsn string, err error) {
	bin, ok := postgresBinaries()
	if !ok {
		return nil, "", ErrNoPostgres
	}
	// Not in the lab's folder: PostgreSQL refuses to run as root, and another user may not enter that.
	dir, err := os.MkdirTemp("", "headgate-bench-postgres-")
	if err != nil {
		return nil, "", err
	}
	l.others = append(l.others, dir)
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		if attr.Credential, err = unprivileged(); err != nil {
			return nil, "", err
		}
		if err := os.Chown(dir, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
			return nil, "", err
		}
	}
	data := filepath.Join(dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "headgate", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, attr
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("initdb: %w\n%s", err, out)
	}
	sync := "off"
	if fsync {
		sync = "on"
	}
	p, err = l.start("postgres", filepath.Join(bin, "postgres"), []string{
		"-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "max_connections=400", "-c", "shared_buffers=256MB", "-c", "fsync=" + sync,
	}, []string{"LC_ALL=C", "TZ=UTC"}, dir, attr)
	if err != nil {
		return nil, "", err
	}
	dsn = fmt.Sprintf("host=%s user=headgate dbname=postgres sslmode=disable", dir)
	return p, dsn, p.Await(ctx, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// postgresBinaries is the folder of initdb and postgres: that of PATH, or the newest that Debian has put elsewhere.
func postgresBinaries() (string, bool) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), true
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", false
	}
	return filepath.Dir(slices.Max(found)), true // two digits each since 2017
}

// unprivileged is whom the server runs as when we are root.
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
