package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
)

// helpExamples are two examples for the help of headgate and of each command, by its name.
var helpExamples = map[string][2]string{
	"":                    {"headgate doctor", "headgate find msg_2fQ1V7nC5B0c3ZLkT9yEwXaJmRd"},
	"dev":                 {"headgate dev", "headgate dev --with-codat --data /tmp/headgate"},
	"serve":               {"headgate serve --data-dir /var/lib/headgate --secret-file webhook-key", "headgate serve --data-dir data --secret-file webhook-key --listen 127.0.0.1:8080"},
	"send":                {"headgate send connection.connected", "headgate send --all-types --every 30s"},
	"verify":              {"headgate verify request.http --secret-file webhook-key", "headgate verify --headers headers.txt --body body.json --secret-file webhook-key"},
	"tail":                {"headgate tail 'connection.*'", "headgate tail --type '*.write.unsuccessful' --company c-1 -o jsonl"},
	"find":                {"headgate find msg_2fQ1V7nC5B0c3ZLkT9yEwXaJmRd", "headgate find 3f2a9c1e-5b1d-4f0e-9a57-2c1f7e0d4b11 --since 3d"},
	"dead":                {"headgate dead list --worker writes --since 1d", "headgate dead list -o id | headgate dead replay -"},
	"dead list":           {"headgate dead list --worker writes --since 1d", "headgate dead list --all -o json"},
	"dead show":           {"headgate dead show 12", "headgate dead show 12 --payload -o json"},
	"dead replay":         {"headgate dead replay 12 13", "headgate dead list --worker writes -o id | headgate dead replay - --rate 10"},
	"replay":              {"headgate replay --worker writes --since 2h --dry-run", "headgate replay --worker connections --type 'connection.*' --company c-1"},
	"quarantine":          {"headgate quarantine list", "headgate quarantine release 7 --type connection.connected"},
	"quarantine list":     {"headgate quarantine list", "headgate quarantine list --cause no_type --since 1d -o json"},
	"quarantine show":     {"headgate quarantine show 7", "headgate quarantine show 7 --payload"},
	"quarantine release":  {"headgate quarantine release 7 --type connection.connected", "headgate quarantine release 7 --type a.new.type --unknown-type"},
	"plans":               {"headgate plans submit docs/plan.json", "headgate plans show expense-1"},
	"plans submit":        {"headgate plans submit docs/plan.json", "headgate plans submit docs/plan.json --json"},
	"plans list":          {"headgate plans list --status held", "headgate plans list --company c-1 -o id"},
	"plans show":          {"headgate plans show expense-1", "headgate plans show expense-1 --payload -o json"},
	"plans resume":        {"headgate plans resume expense-1", "headgate plans resume expense-1 cost"},
	"plans retry":         {"headgate plans retry expense-1 cost", "headgate plans retry expense-1 cost --json"},
	"plans skip":          {"headgate plans skip expense-1 receipt", "headgate plans skip expense-1 receipt --json"},
	"plans cancel":        {"headgate plans cancel expense-1", "headgate plans cancel expense-1 --json"},
	"plans stop":          {"headgate plans stop --dry-run", "headgate plans stop --yes"},
	"connections":         {"headgate connections --status Deauthorized", "headgate connections show c-1 k-1"},
	"connections list":    {"headgate connections list --status Deauthorized", "headgate connections list --company c-1 --suspect -o wide"},
	"connections show":    {"headgate connections show c-1 k-1", "headgate connections show c-1 k-1 -o json"},
	"writes":              {"headgate writes --status Failed --since 1d", "headgate writes show 3f2a9c1e-5b1d-4f0e-9a57-2c1f7e0d4b11"},
	"writes list":         {"headgate writes list --status Failed --since 1d", "headgate writes list --overdue --data-type invoices -o id"},
	"writes show":         {"headgate writes show 3f2a9c1e-5b1d-4f0e-9a57-2c1f7e0d4b11", "headgate writes show 3f2a9c1e-5b1d-4f0e-9a57-2c1f7e0d4b11 --payload"},
	"reads":               {"headgate reads --status error", "headgate reads show c-1 k-1 invoices"},
	"reads list":          {"headgate reads list --status error", "headgate reads list --stale-since 36h -o id | xargs -L1 headgate reads show"},
	"reads show":          {"headgate reads show c-1 k-1 invoices", "headgate reads show c-1 k-1 invoices -o json"},
	"endpoints":           {"headgate endpoints list --codat-key-file key", "headgate endpoints checklist"},
	"endpoints list":      {"headgate endpoints list --codat-key-file key", "headgate endpoints list --type 'invoices.>' --codat-key-file key -o json"},
	"endpoints create":    {"headgate endpoints create https://hooks.example.com/webhooks/codat --codat-key-file key", "headgate endpoints create https://hooks.example.com/webhooks/codat --type 'connection.>' --codat-key-file key"},
	"endpoints delete":    {"headgate endpoints delete 3f2a9c1e-5b1d-4f0e-9a57-2c1f7e0d4b11 --codat-key-file key", "headgate endpoints delete 3f2a9c1e-5b1d-4f0e-9a57-2c1f7e0d4b11 --yes --codat-key-file key"},
	"endpoints checklist": {"headgate endpoints checklist", "headgate endpoints checklist | less"},
	"expected":            {"headgate expected", "headgate expected --kind overdue --company c-1 -o id"},
	"doctor":              {"headgate doctor", "headgate doctor -o json | jq .items"},
	"audit":               {"headgate audit", "headgate audit --json"},
	"scrub":               {"headgate scrub", "headgate scrub --json"},
	"provision":           {"headgate provision --dry-run", "headgate provision --replicas 3"},
	"backup":              {"headgate backup backup-1", "headgate backup backup-1 --nats-nkey key"},
	"restore":             {"headgate restore docs", "headgate restore docs --replicas 1"},
	"erase":               {"headgate erase 3f2a9c1e-5b1d-4f0e-9a57-2c1f7e0d4b11 --dry-run", "headgate erase 3f2a9c1e-5b1d-4f0e-9a57-2c1f7e0d4b11 --yes --json"},
	"remove":              {"headgate remove worker relay-crm --dry-run", "headgate remove source codat-uk"},
	"remove worker":       {"headgate remove worker relay-crm --dry-run", "headgate remove worker relay-crm --dead-letters"},
	"remove source":       {"headgate remove source codat-uk --dry-run", "headgate remove source codat-uk --yes=codat-uk"},
	"streams":             {"headgate streams", "headgate streams --all -o wide"},
	"step-down":           {"headgate step-down", "headgate step-down KV_CODAT_plans --json"},
	"types":               {"headgate types", "headgate types --drift http://127.0.0.1:9090/metrics"},
	"console":             {"headgate console --users-file users.yml", "headgate console user anna --rights view,payload"},
	"console serve":       {"headgate console serve --users-file users.yml --operate", "headgate console serve --user-header X-Forwarded-User --trusted-proxy 10.0.0.0/8"},
	"console user":        {"headgate console user anna --rights view,payload,operate", "headgate console user prober --token"},
	"workers":             {"headgate workers", "headgate workers --worker writes -o wide"},
	"pause":               {"headgate pause writes", "headgate pause writes --until 2h"},
	"resume":              {"headgate resume writes", "headgate resume writes --json"},
	"watch":               {"headgate watch", "headgate watch --admin-listen 127.0.0.1:9091"},
	"new":                 {"headgate new worker failures", "headgate new worker late-payments --repository headgate"},
	"new worker":          {"headgate new worker failures", "headgate new worker late-payments --repository headgate"},
	"keys":                {"headgate keys secrets", "headgate keys deploy/compose/secrets"},
	"completion":          {"headgate completion bash > /etc/bash_completion.d/headgate", "headgate completion fish | source"},
	"man":                 {"headgate man | man -l -", "headgate man > headgate.1"},
}

// exitCodes is in the help of each command.
const exitCodes = "Exit codes: 0 done; 1 failed, not found or something is wrong; 2 command line or setting; 3 not reached in time; 4 not permitted; 130 interrupted."

// prepare puts the examples into the help, and answers a shell that completes a command line: it then ends the process.
func prepare(k *kong.Kong) error {
	if err := kong.Visit(k.Model, func(v kong.Visitable, next kong.Next) error {
		switch n := v.(type) {
		case *kong.Application:
			addExamples(n.Node)
		case *kong.Node:
			addExamples(n)
		}
		return next(nil)
	}); err != nil {
		return err
	}
	if os.Getenv("COMP_LINE") != "" {
		kongcompletion.Register(k)
	}
	return nil
}

func addExamples(n *kong.Node) {
	examples, ok := helpExamples[commandName(n)]
	if !ok {
		return
	}
	n.Detail = strings.TrimSpace(fmt.Sprintf("Examples:\n\n    %s\n    %s\n\n%s", examples[0], examples[1], n.Detail))
	if n.Parent != nil && len(n.Children) == 0 {
		n.Detail += "\n\n" + exitCodes
	}
}

// commandName returns the name of a command without "headgate".
func commandName(n *kong.Node) string {
	if n.Parent == nil {
		return ""
	}
	return strings.TrimSpace(commandName(n.Parent) + " " + n.Name)
}
