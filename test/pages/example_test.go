//go:build faults

package pages

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/pkg/claims/pgclaims/pgtest"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
)

// An example is docs/example, which runs beside headgate dev with the stand-in for Codat.
type example struct {
	repository
	env []string
	out *screen // of all of its processes
	cmd *exec.Cmd
	url string
}

// An expense is what its API says of one.
type expense struct {
	ID, Description, Status, Reason string
	Key                             string `json:"push_operation_key"`
	Account                         string `json:"account_record"`
	Cost                            string `json:"cost_record"`
}

// start starts the program, which is to be ready.
func (e *example) start() {
	e.t.Helper()
	e.cmd = exec.Command(e.path("example"), "-listen", "127.0.0.1:0")
	e.cmd.Env = append(os.Environ(), e.env...)
	before := len(e.out.String())
	e.cmd.Stdout, e.cmd.Stderr = e.out, e.out
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	ready := regexp.MustCompile(`expenses are at (\S+)\n`)
	e.wait("the example listens", func() bool {
		found := ready.FindStringSubmatch(e.out.String()[before:])
		if found != nil {
			e.url = found[1]
		}
		return found != nil
	})
}

// kill ends the program as a power failure does.
func (e *example) kill() {
	e.t.Helper()
	if err := e.cmd.Process.Kill(); err != nil {
		e.t.Fatal(err)
	}
	_ = e.cmd.Wait() // it was killed
}

// post posts an expense and returns its id.
func (e *example) post(description string) string {
	e.t.Helper()
	body := fmt.Sprintf(`{"description": %q, "amount": 12.5, "account": "Larkspur travel"}`, description)
	resp, err := http.Post(e.url, "application/json", strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	var made expense
	if err := json.NewDecoder(resp.Body).Decode(&made); err != nil || resp.StatusCode != http.StatusCreated || made.Status != "Draft" {
		e.t.Fatalf("POST /expenses is answered %s and %+v, %v", resp.Status, made, err)
	}
	if want := "/expenses/" + made.ID; resp.Header.Get("Location") != want {
		e.t.Errorf("Location: %s; want %s", resp.Header.Get("Location"), want)
	}
	return made.ID
}

// get gets what is at a path below /expenses, and returns the status of the answer.
func (e *example) get(path string, into any) int {
	e.t.Helper()
	resp, err := http.Get(e.url + path)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
			e.t.Fatal(err)
		}
	}
	return resp.StatusCode
}

// ended waits until every expense has come to its end, and returns them.
func (e *example) ended(count int) []expense {
	e.t.Helper()
	var all []expense
	e.wait(fmt.Sprintf("%d expenses are at their end", count), func() bool {
		e.get("", &all)
		open := func(one expense) bool { return one.Status != "Push complete" && one.Status != "Push failed" }
		return len(all) == count && !slices.ContainsFunc(all, open)
	})
	return all
}

// newExample builds docs/example and runs it, with a database, until the test ends.
func newExample(t *testing.T, database string) *example {
	t.Helper()
	r, env := beside(t, "--with-codat", "--codat-listen", "127.0.0.1:0")
	repository{t, "../.."}.run(".", nil, "go", "build", "-o", r.path("example"), "./docs/example")
	e := &example{repository: r, env: append(env, "DATABASE_URL="+database), out: new(screen)}
	e.start()
	t.Cleanup(func() {
		if err := e.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := e.cmd.Wait(); err != nil {
			t.Errorf("the example ends with %v\n%s", err, e.out)
		}
	})
	return e
}

// pushes are the push operations at the stand-in for Codat, by their keys.
func (e *example) pushes() map[string]api.PushOperation {
	e.t.Helper()
	s := api.Settings{CodatTimeout: patience, CodatConcurrency: 1}
	for _, variable := range e.env {
		name, value, _ := strings.Cut(variable, "=")
		switch name {
		case "HEADGATE_CODAT_URL":
			s.CodatURL = value
		case "HEADGATE_CODAT_KEY_FILE":
			s.CodatKeyFile = value
		}
	}
	client, err := api.New(s, prometheus.NewRegistry())
	if err != nil {
		e.t.Fatal(err)
	}
	defer client.Close()
	list, err := client.Pushes(e.t.Context(), "c0ffee00-0000-4000-8000-00000000000a", api.Page{})
	if err != nil {
		e.t.Fatal(err)
	}
	all := map[string]api.PushOperation{}
	for _, op := range list.Results {
		all[op.PushOperationKey] = op
	}
	return all
}

// The service of docs/example takes expenses as its page types them. It is killed after it has stored one, before and after
// it submits the plan, and pushes an account and a cost for each expense, once.
func TestExample_PushesEachExpenseOnceAndShowsWhyOneIsRefused(t *testing.T) {
	database := pgtest.New(t)
	e := newExample(t, database.DSN)
	commands := regexp.MustCompile("(?m)^curl .*$").FindAllString(repository{t, "../.."}.read("docs/example/README.md"), -1)
	if len(commands) != 3 {
		t.Fatalf("docs/example/README.md has %d calls; want 3", len(commands))
	}
	typed := strings.NewReplacer("curl", "curl --fail", "http://127.0.0.1:8081/expenses", e.url)
	for _, command := range commands {
		e.run(".", nil, "sh", "-ec", typed.Replace(command))
	}
	for range 3 {
		e.post("Hotel")
		e.kill()
		e.start()
	}
	e.kill()
	// As a kill between the commit and the submission leaves them, and one between the submission and its note in the row.
	for _, statement := range []string{
		`INSERT INTO expenses (description, amount, account) VALUES ('Taxi', 9, 'Taxis')`,
		`UPDATE expenses SET status = 'Draft' WHERE description = 'Hotel'`,
	} {
		if _, err := database.Pool(t).Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	e.start()

	all := e.ended(6)
	pushes := e.pushes()
	if len(pushes) != 2*len(all) {
		t.Errorf("the stand-in has %d pushes for %d expenses; want an account and a cost for each", len(pushes), len(all))
	}
	for _, one := range all {
		cost, ok := pushes[one.Key]
		if !ok || cost.DataType != codat.DataDirectCosts || one.Account == "" {
			t.Errorf("the push of %+v is %+v", one, cost)
		}
		delete(pushes, one.Key) // of no other expense
		refused := strings.Contains(one.Description, "codattest:failed")
		switch {
		case refused && (one.Status != "Push failed" || one.Reason != "cost: the platform refused the record" || one.Cost != ""):
			t.Errorf("what the platform refuses is %+v", one)
		case !refused && (one.Status != "Push complete" || one.Reason != "" || len(cost.Changes) != 1 || one.Cost != cost.Changes[0].Record.ID):
			t.Errorf("what the platform takes is %+v, its push %+v", one, cost)
		}
		if status := e.get("/"+one.ID, new(expense)); status != http.StatusOK {
			t.Errorf("GET /expenses/%s is answered %d", one.ID, status)
		}
	}
	for _, account := range pushes {
		if account.DataType != codat.DataChartOfAccounts || len(account.Changes) != 1 ||
			!slices.ContainsFunc(all, func(one expense) bool { return one.Account == account.Changes[0].Record.ID }) {
			t.Errorf("a push belongs to no expense: %+v", account)
		}
	}
	if out := e.out.String(); strings.Contains(out, "Hotel") || strings.Contains(out, "Leeds") {
		t.Errorf("the log has what users write:\n%s", out)
	}
}
