//go:build faults

package pages

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/pkg/claims/pgclaims/pgtest"
)

// docs/own-worker.md makes a worker in a module of its own, which is built, tested, provisioned by its spec and run with
// its own key.
func TestOwnWorker_IsMadeInAModuleOfItsOwn(t *testing.T) {
	database := pgtest.New(t).DSN + " pool_max_conns=24"
	here, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	headgate := repository{t, here}
	page := headgate.read("docs/own-worker.md")
	own := repository{t, t.TempDir()}
	files := file.FindAllStringSubmatch(page, -1)
	if len(files) != 6 {
		t.Fatalf("docs/own-worker.md has %d files; want 6", len(files))
	}
	for _, f := range files {
		own.write(f[1], f[2])
	}
	own.run(".", nil, "go", "mod", "init", "example.com/expenses")
	// Instead of go get, which would take what is published.
	own.run(".", nil, "go", "mod", "edit", "-require", "github.com/headgate/headgate@v0.0.0", "-replace", "github.com/headgate/headgate="+here)
	own.write("go.sum", headgate.read("go.sum"))
	own.run(".", nil, "go", "mod", "tidy")
	own.run(".", nil, "go", "vet", "./...")
	own.run(".", nil, "go", "test", "./...")
	own.run(".", nil, "go", "build", "-o", "worker-expenses", ".")
	spec, err := exec.Command(own.path("worker-expenses"), "--spec").Output()
	if err != nil {
		t.Fatalf("worker-expenses --spec: %v", err)
	}
	own.write("expenses.json", string(spec))

	secrets := filepath.Join(t.TempDir(), "secrets")
	bin := t.TempDir()
	headgate.run(".", nil, "go", "build", "-o", bin, "./cmd/headgate")
	own.run(".", nil, filepath.Join(bin, "headgate"), "keys", secrets, "--spec", "expenses.json")
	own.run(".", nil, filepath.Join(bin, "headgate"), "keys", secrets) // keeps the worker's account
	s := headgate.serve(secrets)
	url := "nats://" + s.Addr().String()
	as := func(role string) []string {
		return []string{"NATS_URL=" + url, "NATS_NKEY=" + filepath.Join(secrets, role, "nkey"), "HEADGATE_DATABASE_URL=" + database}
	}
	pool, err := pgxpool.New(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	_, create, _ := strings.Cut(page, "psql expenses -c '")
	create, _, _ = strings.Cut(create, "'")
	if _, err := pool.Exec(t.Context(), create); err != nil {
		t.Fatal(err)
	}

	// What it says when it is not provisioned names what cures it.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, own.path("worker-expenses"), "--admin-listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), as("expenses")...)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "with --spec FILE for a worker that is not built in") {
		t.Errorf("before it is provisioned, the worker ends with %v and says\n%s", err, out)
	}
	own.run(".", as("provision"), filepath.Join(bin, "headgate"), "provision", "--spec", "expenses.json")
	own.start("worker-expenses", as("expenses"))
	own.publish(url, secrets, "msg_1", "directCosts.write.successful")
	own.publish(url, secrets, "msg_2", "directCosts.write.unsuccessful")
	own.wait("the worker marks two pushes", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), `SELECT count(*) FROM headgate_claims WHERE record->>'state' = 'done'`).Scan(&n)
		return err == nil && n == 2
	})
	// Provisioning the built-in workers leaves it alone.
	own.run(".", as("provision"), filepath.Join(bin, "headgate"), "provision")
	own.publish(url, secrets, "msg_3", "bills.write.successful")
	own.wait("the worker marks a third", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), `SELECT count(*) FROM headgate_claims WHERE record->>'state' = 'done'`).Scan(&n)
		return err == nil && n == 3
	})
}
