// Package examples holds a body for each event type that Codat sends or has sent, and
// bodies as odd as Codat's documentation warns of, or shows. All values are invented: no
// company, account or id in them exists.
package examples

import (
	"bytes"
	"embed"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Example is one body. Those of the catalog are named after their type, in front of a
// pattern stands an invented product; the odd ones have names that begin with "trap/".
type Example struct {
	Name string
	Type string // the canonical type; "" when the body names none and must be quarantined
	Body []byte // the caller's own copy
}

//go:embed bodies traps
var files embed.FS

// traps maps the odd bodies to the types that they are of in spite of it.
var traps = map[string]string{
	// The documented examples contradict their types: the deletion is in the type and not
	// in the status, the reset names itself reached and holds an impossible time, and the
	// attachment says Create.
	"connection-deleted-says-linked": "connection.deleted",
	"rate-limit-reset-says-reached":  "client.rateLimit.reached",
	"attachment-says-create":         "bills.write.successful",
	// The deprecation note says Success and modifiedRecords for Complete and recordsModified.
	"read-completed-success": "read.completed",
	// The catalog's examples of 2024, which the portal sends for a test, say type for eventType.
	"company-type-for-event-type":    "company.created",
	"connection-type-for-event-type": "connection.connected",
	// Before 2025 bank feeds had no envelope, and so no type; an example of 2025 has no id.
	"source-account-without-envelope": "",
	"source-account-without-id":       "bankFeeds.sourceAccount.connected",
	// Misspelt in the documentation.
	"connection-conneected":  "connection.connected",
	"bill-in-the-singular":   "bills.write.unsuccessful",
	"report-in-the-singular": "reports.creditModel.generate.successful",
	// Legacy rules have changed their sentences and the case of their keys over the years.
	"new-company-synchronised":           "NewCompanySynchronized",
	"push-operation-without-parentheses": "PushOperationStatusChanged",
	"push-operation-in-pascal-case":      "PushOperationStatusChanged",
	"push-operation-guid":                "PushOperationTimedOut",
	"connection-only-in-data":            "DataConnectionStatusChanged",
	"data-is-null":                       "DataSyncStatusChangedToError",
	// One read can go over several connections, and each entry counts.
	"read-of-several-connections": "read.completed",
	// Dates without a zone, with seven digits; numbers as text.
	"dates-without-zone": "invoices.write.successful",
	"numbers-as-text":    "bankFeeds.sourceAccount.connected",
}

// All returns the examples in ascending order of their names.
func All() []Example {
	var all []Example
	for _, e := range entries("bodies") {
		all = append(all, read("bodies", e, e))
	}
	for _, e := range entries("traps") {
		example := read("traps", e, traps[e])
		example.Name = "trap/" + e
		all = append(all, example)
	}
	slices.SortFunc(all, func(a, b Example) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Of returns the example with the given name; for a pattern, such as "*.read.completed",
// the one that fits it.
func Of(typ string) (Example, bool) {
	rest, pattern := strings.CutPrefix(typ, "*.")
	for _, e := range All() {
		product, tail, _ := strings.Cut(e.Name, ".")
		if e.Name == typ || pattern && tail == rest && product != "" {
			return e, true
		}
	}
	return Example{}, false
}

// entries returns the names of the examples in a folder. The files are part of the
// program, and so reading them cannot fail.
func entries(folder string) []string {
	found, err := fs.ReadDir(files, folder)
	if err != nil {
		panic(err)
	}
	var names []string
	for _, f := range found {
		names = append(names, strings.TrimSuffix(f.Name(), ".json"))
	}
	return names
}

func read(folder, name, typ string) Example {
	body, err := files.ReadFile(path.Join(folder, name+".json"))
	if err != nil {
		panic(err)
	}
	return Example{Name: name, Type: typ, Body: bytes.Clone(body)}
}
