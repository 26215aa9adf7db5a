//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims/pgclaims/pgtest"
)

// The names of pages, as they are here.
var names = strings.NewReplacer("v1.0.0", project, "v1.1.0", next, "-t worker-expenses", "-t "+expenses)

const (
	accounts = "deploy/nats/accounts.conf"
	expenses = "headgate/worker-expenses:" + project // the image of the worker on docs/own-worker.md
	database = project + "-database"                 // the network of its database
)

// page is a page, from a heading on.
func (e *engine) page(name, heading string) string {
	e.t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		e.t.Fatal(err)
	}
	_, rest, ok := strings.Cut("\n"+string(text), "\n"+heading+"\n")
	if !ok {
		e.t.Fatalf("%s has no heading %s", name, heading)
	}
	return rest
}

// blocks are the blocks of code of a page, in one language.
func blocks(page, language string) (all []string) {
	for _, b := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		all = append(all, b[1])
	}
	return all
}

// typed runs commands as somebody types them at a terminal, and returns what it shows.
func (e *engine) typed(commands string) string {
	e.t.Helper()
	return e.run("script", "-qec", "set -e\n"+names.Replace(commands), "/dev/null")
}

// edit changes a file in the copy of the repository.
func (e *engine) edit(name, from, to string) {
	e.t.Helper()
	text, err := os.ReadFile(e.path(name))
	if err != nil {
		e.t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		e.t.Fatalf("%s has no %q", name, from)
	}
	e.write(name, strings.Replace(string(text), from, to, 1))
}

// withoutKeys sees that an up before there are keys says what to do.
func (e *engine) withoutKeys() {
	e.t.Helper()
	if out, err := e.try("docker", "compose", "up", "-d"); err == nil {
		e.t.Errorf("without keys, up succeeds:\n%s", out)
	}
	if out := e.up("logs", "--no-color", "keys-exist"); !strings.Contains(out, "run headgate keys first") {
		e.t.Errorf("without keys, keys-exist says:\n%s", out)
	}
}

// A table has the commands of the table "With Compose" in docs/operate.md, and how often each was run.
type table struct {
	e    *engine
	runs map[string]int
}

func (e *engine) table() table {
	e.t.Helper()
	t := table{e, map[string]int{}}
	section, _, _ := strings.Cut(e.page("docs/operate.md", "## With Compose"), "\n\n```")
	for _, row := range regexp.MustCompile(`(?m)^\| (.*) \| (.*) \|$`).FindAllStringSubmatch(section, -1) {
		for _, c := range regexp.MustCompile("`((?:docker compose|run|curl) [^`]+)`").FindAllStringSubmatch(row[2], -1) {
			t.runs[c[1]] = 0
		}
	}
	return t
}

// command is a command of the table, with what it leaves open filled in, or with something added.
func (t table) command(name, with string) string {
	t.e.t.Helper()
	if _, ok := t.runs[name]; !ok {
		t.e.t.Errorf("the table has no command %s", name)
	}
	t.runs[name]++
	command := name
	if strings.HasPrefix(name, "run ") {
		command = "docker compose " + name
	}
	filled := strings.NewReplacer("…", with, "TYPE", with, "FOLDER", with).Replace(command)
	if filled == command {
		filled += " " + with
	}
	return filled
}

// shows runs a command, which must show something.
func (t table) shows(want, command string) string {
	t.e.t.Helper()
	out := t.e.typed(command)
	if !strings.Contains(out, want) {
		t.e.t.Errorf("%s\nshows no %q:\n%s", command, want, out)
	}
	return out
}

const (
	keysCommand      = `docker compose run --rm -u "$(id -u):$(id -g)" keys …`
	reloadCommand    = `docker compose kill -s HUP nats-1 nats-2 nats-3`
	provisionCommand = `docker compose run --rm provision provision …`
	sendCommand      = `docker compose run --rm headgate send TYPE`
	natsCommand      = `docker compose run --rm nats …`
	adminCommand     = `docker compose run --rm admin …`
	auditCommand     = `run --rm -v "$PWD/sent:/sent:ro" headgate audit --expect /sent`
	saveCommand      = `docker compose run --rm -u "$(id -u):$(id -g)" -v "$PWD:/here" provision backup /here/FOLDER`
)

// withCompose runs every command of the table, on the events that were accepted.
func (e *engine) withCompose(accepted []string, step func(string, ...any)) {
	e.t.Helper()
	t := e.table()
	e.up("up", "-d", "--scale", "worker-connections=2")
	e.healthy("worker-connections", 2)
	for _, service := range []string{"ingress", "worker-connections", "worker-reads", "worker-writes"} {
		for path, want := range map[string]string{"/readyz": "ok", "/metrics": "headgate_ready"} {
			command := t.command(`curl "http://$(docker compose port ingress 9090)/readyz"`, "-fsS")
			t.shows(want, strings.NewReplacer("ingress", service, "/readyz", path).Replace(command))
		}
		t.shows("ok", strings.ReplaceAll(t.command(`docker compose exec ingress /ready -v`, ""), "ingress", service))
	}
	t.shows("127.0.0.1:", t.command(`docker compose port --index 2 worker-connections 9090`, ""))
	t.shows(`"status":"ok"`, t.command(`docker compose exec nats-1 wget -qO- http://127.0.0.1:8222/healthz`, ""))

	t.shows("connections", t.command(`docker compose run --rm headgate …`, "workers"))
	sent := regexp.MustCompile(`msg_\w+`).FindString(t.shows("204", t.command(sendCommand, "connection.connected")))
	t.shows("204", t.command(sendCommand, "connection.connected --id "+sent+
		" --to http://ingress:8080/webhooks/codat --secret-file /run/secrets/webhook/key"))
	e.write("sent", strings.Join(append(accepted, sent), "\n")+"\n")
	t.shows(" 0 exceptions", t.command(auditCommand, "--secret-file /run/secrets/webhook/key"))
	e.typed(t.command(provisionCommand, "--replicas 3 --dry-run"))
	step("the processes are looked at, and the events audited")

	e.typed(t.command(keysCommand, "") + "\n" + t.command(reloadCommand, ""))
	t.shows("CODAT", t.command(adminCommand, "erase c0ffee00-0000-4000-8000-00000000000a --dry-run"))
	e.subscribe()
	t.shows("billing", t.command(natsCommand, "consumer info CODAT billing"))
	step("an administrator looked what there is to erase, and a service subscribed")

	t.shows("CODAT_DEAD", t.command(saveCommand, "saved"))
	e.restore(t)
	step("the cluster is lost, and restored")
	for command, n := range t.runs {
		if n == 0 {
			e.t.Errorf("the table in docs/operate.md has a command that this test does not run: %s", command)
		}
	}
}

// restore removes everything and restores the backup, as "The cluster is lost" in docs/operate.md says.
func (e *engine) restore(t table) {
	e.t.Helper()
	servers := []string{"nats-1", "nats-2", "nats-3"}
	e.up("down", "-v", "-t", "10")
	e.up(append([]string{"up", "-d"}, servers...)...)
	for _, name := range servers {
		e.healthy(name, 1)
	}
	t.shows("CODAT_DEAD", strings.Replace(t.command(saveCommand, "saved --replicas 3"), " backup ", " restore ", 1))
	e.typed(t.command(provisionCommand, "--replicas 3"))
	for _, name := range servers {
		e.up("restart", name)
		e.healthy(name, 1)
	}
	e.wait("the audit reads every copy and finds no exception", func() bool {
		_, err := e.try("sh", "-c", t.command(auditCommand, ""))
		return err == nil
	})
	e.up("up", "-d")
	e.healthy("ingress", 1)
	e.healthy("worker-connections", 1)
}

// subscribe follows "With Compose" in docs/subscribe.md.
func (e *engine) subscribe() {
	e.t.Helper()
	lines := strings.SplitAfterN(blocks(e.page("docs/subscribe.md", "## With Compose"), "sh")[0], "\n", 3)
	if !strings.HasPrefix(lines[1], "# in "+accounts) {
		e.t.Fatalf("the second line of docs/subscribe.md, With Compose, is %q", lines[1])
	}
	e.typed(lines[0])
	e.edit(accounts, "# include team-billing.conf", "include team-billing.conf")
	e.edit(accounts, "# billing: {", "billing: {")
	e.typed(lines[2])
	js, err := jetstream.NewWithAPIPrefix(e.login("billing", "billing"), "HEADGATE.API")
	if err != nil {
		e.t.Fatal(err)
	}
	e.wait("billing has its consumer", func() bool {
		_, err := js.Consumer(e.ctx, source.Stream(), "billing")
		return err == nil
	})
}

// ownWorker builds the worker of docs/own-worker.md and runs it as the page says of Compose.
func (e *engine) ownWorker() {
	e.t.Helper()
	server, err := pgtest.Start()
	if errors.Is(err, pgtest.ErrNotInstalled) {
		e.t.Logf("docs/own-worker.md is not followed: %v", err)
		return
	}
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = server.Stop() })
	here, err := filepath.Abs("../..")
	if err != nil {
		e.t.Fatal(err)
	}
	page := e.page("docs/own-worker.md", "# A worker in a repository of its own")
	for _, file := range regexp.MustCompile("(?ms)^### \\d+\\. `([^`]+)`\n.*?^```[a-z]+\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		e.write("expenses/"+file[1], file[2])
	}
	// Instead of go get, which would take what is published.
	e.typed("cd expenses\ngo mod init example.com/expenses\ncp ../go.sum .\n" +
		"go mod edit -require github.com/headgate/headgate@v0.0.0 -replace github.com/headgate/headgate=" + here)
	build := blocks(e.page("docs/own-worker.md", "## Test and build"), "sh")[0]
	e.typed("cd expenses\n" + strings.Replace(build, "go test ./...\n", "", 1) + "cp expenses.json ..") // test/pages runs its tests

	pg, err := pgx.Connect(e.ctx, server.DSN)
	if err != nil {
		e.t.Fatal(err)
	}
	defer pg.Close(e.ctx)
	if _, err := pg.Exec(e.ctx, "CREATE ROLE expenses LOGIN CREATEDB"); err != nil {
		e.t.Fatal(err)
	}
	e.env = append(e.env, "PGHOST="+pg.Config().Host, "PGUSER=expenses")
	create, _, _ := strings.Cut(blocks(e.page("docs/own-worker.md", "## On a laptop"), "sh")[0], "\n")
	e.typed(create)
	e.docker("network", "create", database)
	address := e.forward(e.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", database), filepath.Join(pg.Config().Host, ".s.PGSQL.5432"))

	_, page, _ = strings.Cut(page, "With **Compose**")
	e.typed(blocks(page, "sh")[0])
	e.write("docker-compose.override.yml", strings.NewReplacer("image: worker-expenses", "image: "+expenses,
		"postgres:5432", address, "{external: true}", "{external: true, name: "+database+"}").Replace(blocks(page, "yaml")[0]))
	e.env = append(e.env, "COMPOSE_FILE=docker-compose.yml:docker-compose.override.yml:outcomes.yml")
	start := regexp.MustCompile("`(docker compose up [^`]+)`").FindStringSubmatch(page)
	if start == nil {
		e.t.Fatal("docs/own-worker.md does not start the worker with Compose")
	}
	e.typed(start[1])
	e.up("run", "--rm", "headgate", "send", "directCosts.write.successful")
	db, err := pgx.Connect(e.ctx, server.DSN+" dbname=expenses")
	if err != nil {
		e.t.Fatal(err)
	}
	defer db.Close(e.ctx)
	e.wait("the push is marked", func() bool {
		var status string
		return db.QueryRow(e.ctx, "SELECT status FROM expenses").Scan(&status) == nil && status == "Push complete"
	})
}

// relayed runs the route of deploy/relay as docs/relay.md says of Compose. Its endpoint is the ingress, which verifies signatures as
// every receiver does, and has the event already.
func (e *engine) relayed() {
	e.t.Helper()
	const routes, service = "deploy/relay/routes.yml", "worker-relay-example"
	e.edit(routes, "https://example.com/webhooks/codat", "http://ingress:8080/webhooks/codat")
	e.edit(routes, "secret_files:", "allow_private: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16]\n    secret_files:")
	_, page, found := strings.Cut(e.page("docs/relay.md", "## In a cluster"), "**With Compose,**")
	const made = `echo "whsec_$(openssl rand -base64 32)" >`
	commands := blocks(page, "sh")[0]
	if !found || !strings.Contains(commands, made) {
		e.t.Fatalf("docs/relay.md, With Compose, makes no secret:\n%s", commands)
	}
	e.typed(strings.NewReplacer(made, "cat deploy/compose/secrets/webhook/key >",
		"COMPOSE_FILE=docker-compose.yml:", "COMPOSE_FILE=$COMPOSE_FILE:").Replace(commands))
	e.env = append(e.env, "COMPOSE_FILE="+strings.TrimSpace(e.run("sh", "-c", "echo $COMPOSE_FILE"))+":deploy/relay/compose.yml")
	e.healthy(service, 1)
	e.up("run", "--rm", "headgate", "send", "invoices.write.successful")
	taken := regexp.MustCompile(`(?m)^headgate_relay_requests_total\{answer="2xx".*\} [1-9]`)
	e.wait("the event is relayed", func() bool {
		metrics, _ := e.try("sh", "-c", `curl -fsS "http://$(docker compose port `+service+` 9090)/metrics"`)
		return taken.MatchString(metrics)
	})
}

// serveAlone runs headgate serve in a container, by the commands of its Compose file: it takes events and handles them.
func (e *engine) serveAlone() {
	e.t.Helper()
	const file, secret = "deploy/serve/compose.yml", "deploy/serve/secrets/webhook/key"
	text, err := os.ReadFile(e.path(file))
	if err != nil {
		e.t.Fatal(err)
	}
	var commands []string
	for _, line := range regexp.MustCompile("(?m)^#   (.*?)(    # .*)?$").FindAllStringSubmatch(string(text), -1) {
		commands = append(commands, line[1])
	}
	if len(commands) != 4 {
		e.t.Fatalf("%s has %d commands: %q; want 4", file, len(commands), commands)
	}
	address := freeAddress(e.t)
	own := "export VERSION=" + project + " COMPOSE_PROJECT_NAME=" + project + "-serve INGRESS_LISTEN=" + address + "\n"
	defer func() {
		if out, err := e.try("sh", "-c", own+"docker compose -f "+file+" down -v -t 10"); err != nil {
			e.t.Errorf("compose down: %v\n%s", err, out)
		}
	}()
	e.typed(commands[0])
	e.typed("cat deploy/compose/secrets/webhook/key | " + commands[1])
	e.typed(own + commands[2])
	s := newSender(e.t, "http://"+address+"/webhooks/codat", e.path(secret))
	const events = 100
	s.send(e.ctx, events, 0)
	var out string
	e.wait("headgate serve has handled every event", func() bool {
		out, _ = e.try("script", "-qec", own+commands[3], "/dev/null") // it fails before the process is ready
		return strings.Contains(out, "0 waiting") && strings.Contains(out, fmt.Sprintf("%d events stored", events))
	})
	if strings.Contains(out, "EXCEPTION") {
		e.t.Errorf("its audit says:\n%s", out)
	}
}

// forward leads connections to a free port of a host to a Unix socket, and returns the port's address.
func (e *engine) forward(host, socket string) string {
	e.t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", socket)
			if err != nil {
				_ = client.Close()
				continue
			}
			for to, from := range map[net.Conn]net.Conn{client: server, server: client} {
				go func() {
					_, _ = io.Copy(to, from)
					_ = to.Close()
				}()
			}
		}
	}()
	return l.Addr().String()
}
