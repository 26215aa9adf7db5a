package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
)

// A codatAccount is a stand-in for Codat with a file that has its API key.
type codatAccount struct {
	*codattest.Server
	t       *testing.T
	keyFile string
}

func newCodatAccount(t *testing.T) *codatAccount {
	t.Helper()
	server, err := codattest.Start(codattest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	a := &codatAccount{server, t, filepath.Join(t.TempDir(), "codat-key")}
	a.setKey(codattest.DefaultKey)
	return a
}

func (a *codatAccount) setKey(key string) {
	a.t.Helper()
	// Written in place, it could be read while it is empty.
	if err := os.WriteFile(a.keyFile+".new", []byte(key+"\n"), 0o600); err != nil {
		a.t.Fatal(err)
	}
	if err := os.Rename(a.keyFile+".new", a.keyFile); err != nil {
		a.t.Fatal(err)
	}
}

// flags name the stand-in and its key.
func (a *codatAccount) flags() []string {
	return []string{"--codat-url", a.URL(), "--codat-key-file", a.keyFile}
}

// endpoints runs headgate endpoints with the stand-in.
func (a *codatAccount) endpoints(want int, args ...string) *command {
	a.t.Helper()
	return headgate(a.t, want, slices.Concat([]string{"endpoints"}, args, a.flags())...)
}

// An endpointsList is the document of endpoints list.
type endpointsList struct {
	Endpoints     []api.Webhook `json:"items"`
	NotSubscribed []string      `json:"not_subscribed"`
}

const hook = "https://hooks.example.com/webhooks/codat"

func TestEndpoints_CreateListDelete(t *testing.T) {
	t.Parallel()
	a := newCodatAccount(t)
	contains(t, a.endpoints(0, "list").err.String(), "0 endpoints", "61 types that no endpoint has:", "connection.deleted", "invoices.write.successful")

	c := a.endpoints(0, "create", hook, "--type", "connection.>", "--type", "read.completed", "--company-tag", "region:uk", "--json")
	made := decode[api.Webhook](t, c.out.lines())[0]
	if len(made.EventTypes) != 7 || !slices.IsSorted(made.EventTypes) || made.URL != hook || !slices.Equal(made.CompanyTags, []string{"region:uk"}) {
		t.Errorf("made %+v; want the six types of connections and read.completed", made)
	}
	contains(t, c.err.String(), "signing secret")

	c = a.endpoints(0, "create", hook)
	contains(t, c.err.String(), made.ID+" has this URL too")
	contains(t, c.out.String(), "created ", "types: all 61 of the catalog", "companies: all")

	c = a.endpoints(0, "list")
	contains(t, c.out.String(), made.ID+"\tenabled\t"+hook+"\twith region:uk\tconnection.connected, ", "\tall\tall 61 of the catalog\n")
	contains(t, c.err.String(), "2 endpoints\n", "allows 50")
	if strings.Contains(c.err.String(), "that no endpoint has") {
		t.Errorf("the second endpoint has all types: %s", &c.out)
	}
	if ids := a.endpoints(0, "list", "--type", "connection.>", "-o", "id").out.lines(); len(ids) != 2 {
		t.Errorf("%q have a type of connections; want both", ids)
	}
	if ids := a.endpoints(0, "list", "--type", "company.>", "-o", "id").out.lines(); len(ids) != 1 || ids[0] == made.ID {
		t.Errorf("%q have a type of companies; want the second", ids)
	}
	list := decode[endpointsList](t, []string{a.endpoints(0, "list", "-o", "json").out.String()})[0]
	if len(list.Endpoints) != 2 || list.NotSubscribed == nil || len(list.NotSubscribed) != 0 {
		t.Errorf("endpoints list -o json = %+v", list)
	}

	all := list.Endpoints[1].ID
	null, err := os.Open(os.DevNull) // a character device, as a terminal is
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := confirm(&terminal{in: null, err: io.Discard}, "Delete it?", "nothing was deleted"); err == nil || !strings.Contains(err.Error(), "add --yes") {
		t.Errorf("without an answer the error is %v; want one that names --yes", err)
	}
	contains(t, a.endpoints(2, "delete", all).err.String(), all, "No other endpoint has: ", "company.created", "add --yes")
	if got := decode[endpointsList](t, []string{a.endpoints(0, "list", "-o", "json").out.String()})[0]; len(got.Endpoints) != 2 {
		t.Errorf("without --yes %d endpoints are left; want both", len(got.Endpoints))
	}
	contains(t, a.endpoints(0, "delete", all, "--yes").out.String(), "deleted "+all)
	contains(t, a.endpoints(1, "delete", all, "--yes").err.String(), "there is no endpoint "+all)
	list = decode[endpointsList](t, []string{a.endpoints(0, "list", "-o", "json").out.String()})[0]
	if len(list.Endpoints) != 1 || len(list.NotSubscribed) != len(codat.Current())-7 || slices.Contains(list.NotSubscribed, "connection.created") {
		t.Errorf("after the delete %+v", list)
	}
}

func TestEndpoints_SaysWhichIsDisabledAndEscapesForeignText(t *testing.T) {
	t.Parallel()
	a := newCodatAccount(t)
	id := a.AddEndpoint(codattest.Endpoint{URL: "https://x.example/\x1b[31m", EventTypes: []string{"own\x1b.type"}, CompanyTags: []string{"a:\x1b"}})
	a.SetDisabled(id, true)
	c := a.endpoints(0, "list")
	contains(t, c.out.String(), id+"\tdisabled\thttps://x.example/\\x1b[31m\t"+`with a:\x1b`+"\t"+`own\x1b.type`)
	contains(t, c.err.String(), "headgate endpoints checklist")
	contains(t, headgate(t, 0, "endpoints", "checklist").out.String(), "[ ] Copy the signing secret", "[ ] Enable an endpoint", "custom headers", "Replay")
}

func TestEndpointsCreate_StopsAtCodatsLimit(t *testing.T) {
	t.Parallel()
	a := newCodatAccount(t)
	for range api.MaxWebhooks {
		a.AddEndpoint(codattest.Endpoint{URL: hook})
	}
	c := a.endpoints(1, "create", hook)
	contains(t, c.err.String(), "nothing was made: there are 50 endpoints", "headgate endpoints delete ID")
}

func TestEndpoints_ErrorsNameTheCure(t *testing.T) {
	t.Parallel()
	a := newCodatAccount(t)
	for _, tt := range []struct {
		args string
		says string
	}{
		{"create hooks.example.com", "https://hooks.example.com/webhooks/codat"},
		{"create https://user:password@hooks.example.com/", "no user and no password"},
		{"create http://hooks.example.com/", "https://"},
		{"create " + hook + "#x", "no fragment"},
		{"create " + hook + " --type connection..x", "invalid event type"},
		{"create " + hook + " --type connection.conected", "add --unknown-type"},
		{"create " + hook + " --type conection.>", "no current type of the catalog fits"},
		{"create " + hook + " --company-tag region", "KEY:VALUE"},
		{"create " + hook + " --company-tag " + strings.Repeat("a:b,", 10) + "a:b", "at most 10"},
	} {
		c := a.endpoints(2, strings.Fields(tt.args)...)
		contains(t, c.err.String(), tt.says)
		if strings.Contains(c.err.String(), "password@") {
			t.Errorf("it shows the password: %s", &c.err)
		}
	}
	contains(t, headgate(t, 2, "endpoints", "list").err.String(), "--codat-key-file must name")
	a.endpoints(0, "create", hook, "--type", "ownProduct.read.completed")
	a.endpoints(0, "create", "http://127.0.0.1:8080/", "--type", "a.new.type", "--unknown-type")

	a.setKey("another-key")
	for _, args := range []string{"list", "create " + hook, "delete x --yes"} {
		c := a.endpoints(4, strings.Fields(args)...)
		contains(t, c.err.String(), "Codat refused the API key in "+a.keyFile)
		if strings.Contains(c.err.String(), "another-key") {
			t.Errorf("it shows the key: %s", &c.err)
		}
	}
	a.Close()
	contains(t, a.endpoints(3, "list").err.String(), "no answer")
}
