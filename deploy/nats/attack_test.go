package nats_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// A target is a subject of the account HEADGATE that changes something, with requests to it that would succeed.
type target struct {
	subject string
	bodies  []string
}

// empty is a request without a body, and as the JSON object that says the same.
var empty = []string{"", "{}"}

// dangerous are the API requests that destroy, change or copy streams and consumers.
var dangerous = []target{
	{"$JS.API.STREAM.DELETE.CODAT", empty},
	{"$JS.API.STREAM.DELETE.KV_CODAT_claims_connections", empty},
	{"$JS.API.STREAM.PURGE.CODAT", empty},
	{"$JS.API.STREAM.PURGE.CODAT_OPERATOR", empty},
	{"$JS.API.STREAM.PURGE.KV_CODAT_claims_connections", empty},
	{"$JS.API.STREAM.MSG.DELETE.CODAT", []string{`{"seq":1}`}},
	{"$JS.API.STREAM.UPDATE.CODAT", []string{`{"name":"CODAT","subjects":["codat.events.>"],"max_msgs":1}`}},
	{"$JS.API.STREAM.CREATE.MINE", []string{`{"name":"MINE","subjects":["mine"]}`}},
	{"$JS.API.STREAM.CREATE.COPY", []string{`{"name":"COPY","mirror":{"name":"CODAT"}}`}},
	{"$JS.API.STREAM.SNAPSHOT.CODAT", []string{`{"deliver_subject":"_INBOX_mine"}`}},
	{"$JS.API.STREAM.RESTORE.MINE", []string{`{"config":{"name":"MINE","subjects":["mine"]},"state":{}}`}},
	{"$JS.API.STREAM.LEADER.STEPDOWN.CODAT", empty},
	{"$JS.API.STREAM.PEER.REMOVE.CODAT", []string{`{"peer":"nats-1"}`}},
	{"$JS.API.CONSUMER.DELETE.CODAT.connections", empty},
	{"$JS.API.CONSUMER.DELETE.CODAT_PARKED.connections", empty},
	{"$JS.API.CONSUMER.DELETE.CODAT.billing", empty},
	// With the name in the body, which no deny list of subjects sees.
	{"$JS.API.CONSUMER.CREATE.CODAT", []string{
		`{"stream_name":"CODAT","config":{"name":"connections","durable_name":"connections","ack_policy":"explicit","max_waiting":2048,"max_ack_pending":5000}}`,
		`{"stream_name":"CODAT","config":{"deliver_subject":"codat.operator","ack_policy":"none"}}`,
	}},
	{"$JS.API.CONSUMER.CREATE.CODAT.connections", []string{`{"stream_name":"CODAT","config":{"name":"connections","durable_name":"connections","ack_policy":"explicit","max_waiting":2048}}`}},
	{"$JS.API.CONSUMER.CREATE.CODAT.connections.codat.events.>", []string{`{"stream_name":"CODAT","config":{"name":"connections","durable_name":"connections","filter_subject":"codat.events.>","ack_policy":"explicit"}}`}},
	{"$JS.API.CONSUMER.CREATE.CODAT.tail-mine", []string{`{"stream_name":"CODAT","config":{"name":"tail-mine","deliver_subject":"$KV.CODAT_claims_connections.x","ack_policy":"none"}}`}},
	{"$JS.API.CONSUMER.DURABLE.CREATE.CODAT.connections", []string{`{"stream_name":"CODAT","config":{"durable_name":"connections","ack_policy":"explicit"}}`}},
	{"$JS.API.CONSUMER.PAUSE.CODAT.connections", []string{`{"pause_until":"2100-01-01T00:00:00Z"}`}},
	{"$JS.API.CONSUMER.PAUSE.CODAT_PARKED.connections", []string{`{"pause_until":"2100-01-01T00:00:00Z"}`}},
	{"$JS.API.CONSUMER.PAUSE.KV_CODAT_claims_connections.x", []string{`{"pause_until":"2100-01-01T00:00:00Z"}`}},
	{"$JS.API.CONSUMER.RESET.CODAT.connections", empty},
	{"$JS.API.CONSUMER.DELETE.CODAT.support", empty},
	{"$JS.API.CONSUMER.CREATE.CODAT.support", []string{`{"stream_name":"CODAT","config":{"name":"support","durable_name":"support","ack_policy":"none","headers_only":false}}`}},
	{"$JS.API.CONSUMER.RESET.CODAT.support", []string{`{"seq":1}`}},
	{"$JS.API.CONSUMER.UNPIN.CODAT.connections", []string{`{"group":"g"}`}},
	{"$JS.API.CONSUMER.LEADER.STEPDOWN.CODAT.connections", empty},
	{"$JS.API.META.LEADER.STEPDOWN", empty},
	{"$JS.API.SERVER.REMOVE", []string{`{"peer":"nats-1"}`}},
}

// stored are the subjects under which something is stored, taken or settled.
var stored = []target{
	{"codat.events.company.created", empty},
	{"codat.quarantine", empty},
	{"codat.redrive.connections.company.created", empty},
	{"codat.redrive.another.company.created", empty},
	{"codat.dead.connections.company.created", empty},
	{"codat.dead.another.company.created", empty},
	{"codat.parked.connections.company.created", empty},
	{"codat.parked.another.company.created", empty},
	{"codat.operator", empty},
	{"codat.plans.submit", empty},
	{"codat.plans.cancel", empty},
	{"$KV.CODAT_claims_connections.x", empty},
	{"$KV.CODAT_connections.x.y", empty},
	{"$KV.CODAT_plans.x", empty},
	{"$KV.CODAT_expected.x", empty},
	{"$KV.CODAT_workers.connections.x", empty},
	{"$KV.CODAT_workers.another.x", empty},
	{"$JS.API.CONSUMER.MSG.NEXT.CODAT.connections", []string{`{"batch":1,"no_wait":true}`}},
	{"$JS.API.CONSUMER.MSG.NEXT.CODAT.billing", []string{`{"batch":1,"no_wait":true}`}},
	{"$JS.API.CONSUMER.MSG.NEXT.CODAT_PARKED.connections", []string{`{"batch":1,"no_wait":true}`}},
	{"$JS.ACK.CODAT.connections.1.1.1.1.0", []string{"+ACK", "+TERM"}},
	{"$JS.ACK.CODAT.writes.1.1.1.1.0", []string{"+ACK", "+TERM"}},
	{"$JS.ACK.CODAT.billing.1.1.1.1.0", []string{"+ACK", "+TERM"}},
	{"$JS.ACK.hub.hash.CODAT.billing.1.1.1.1.0.x", []string{"+ACK"}},
}

// No role reaches a dangerous subject: not directly, not with the names in the body, and not as the subject to which the
// server sends its answer to anything that the role may ask. The server checks no permission on that subject.
func TestRoles_ReachNothingDangerous(t *testing.T) {
	t.Parallel()
	rolesReachNothing(t, 1)
}

func rolesReachNothing(t *testing.T, count int) {
	f := newDeployment(t, count)
	for _, role := range f.roles() {
		t.Run(role.name+", nothing to find", func(t *testing.T) { f.withstands(t, role) })
	}
	// An answer with a body of the attacker's choice, and one without.
	for i := range 40 {
		body := []string{"", `{"seq":1}`}[i%2]
		f.store("codat.events.connection.connected", fmt.Sprintf("event_%d", i), body)
		f.store("codat.parked.connections.connection.connected", fmt.Sprintf("parked_%d", i), body)
	}
	for _, role := range f.roles() {
		t.Run(role.name+", messages to take", func(t *testing.T) { f.withstands(t, role) })
	}
	t.Run("a user in the account of the streams", f.reportsInsider)
}

// A deployment is servers with a message of each kind stored, and an administrator's connection to them.
type deployment struct {
	*testing.T
	in    installation
	nodes []*node
	nc    *nats.Conn
	js    jetstream.JetStream

	mu    sync.Mutex
	asked []string // subjects of API requests that HEADGATE's account was asked, as the servers tell, and of requests about plans
}

func newDeployment(t *testing.T, count int) *deployment {
	f := &deployment{T: t}
	f.in, f.nodes = servers(t, count, administrator)
	provisioned := []string{"provision", "--support", "--spec", ownSpec}
	if count > 1 {
		provisioned = append(provisioned, "--replicas", "3")
	}
	headgate(t, f.in.as(f.nodes[0], "provision"), provisioned...)
	var err error
	if f.nc, err = nats.Connect(f.nodes[0].url(), nats.UserInfo("administrator", "p")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.nc.Close)
	if f.js, err = jetstream.New(f.nc); err != nil {
		t.Fatal(err)
	}
	teamDurable(t, f.js)
	// Another worker, of whose consumers no role may know.
	for _, name := range []string{"CODAT", "CODAT_PARKED"} {
		filter := map[string]string{"CODAT": "codat.redrive.another.>", "CODAT_PARKED": "codat.parked.another.>"}[name]
		if _, err := f.js.CreateConsumer(within(t), name, jetstream.ConsumerConfig{Durable: "another", FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
			t.Fatal(err)
		}
	}
	// Entries of running workers expire after a minute: not while this runs.
	workers, err := f.js.Stream(within(t), "KV_CODAT_workers")
	if err != nil {
		t.Fatal(err)
	}
	forLong := workers.CachedInfo().Config
	forLong.MaxAge = time.Hour
	if _, err := f.js.UpdateStream(within(t), forLong); err != nil {
		t.Fatal(err)
	}
	_, err = f.nc.Subscribe("$JS.EVENT.ADVISORY.API", func(m *nats.Msg) {
		var audit server.JSAPIAudit
		if json.Unmarshal(m.Data, &audit) == nil {
			f.hears(audit.Subject)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	answersPlans(t, f.in, f.nodes[0], f.hears)
	answersSearches(t, f.in, f.nodes[0])
	for _, bucket := range []string{"CODAT_claims_connections", "CODAT_connections", "CODAT_expected", "CODAT_workers"} {
		f.store("$KV."+bucket+".known.known", "", "{}")
	}
	// No consumer is to find these; a message of the same id is a duplicate.
	for _, s := range []string{"codat.events.other", "codat.quarantine", "codat.redrive.other.other", "codat.dead.connections.other", "codat.parked.another.other"} {
		f.store(s, known(s), "{}")
	}
	return f
}

// hears keeps the subject of a request.
func (f *deployment) hears(subject string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, subject)
}

// hasHeard returns when what was asked before has been told: otherwise the last requests of a role could be taken for those of
// the next one.
func (f *deployment) hasHeard(t *testing.T) {
	t.Helper()
	last := "$JS.API.STREAM.INFO." + nuid.Next()
	if _, err := f.nc.RequestWithContext(within(t), last, nil); err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Contains(f.asked, last)
	}, "the servers tell of the last request")
}

// known is the id of a message that is stored for each kind of subject.
func known(subject string) string { return "known " + strings.Split(subject, ".")[1] }

func (f *deployment) store(subject, id, body string) {
	f.Helper()
	m := &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{}}
	if id != "" {
		m.Header.Set(jetstream.MsgIDHeader, id)
	}
	if _, err := f.js.PublishMsg(within(f.T), m); err != nil {
		f.Fatalf("store under %s: %v", subject, err)
	}
}

// A role is a user, as the configuration has it.
type role struct {
	name, process string
	may           []string // the subjects to which it may publish, in its account
}

// roles are those that are no administrators.
func (f *deployment) roles() []role {
	all := []role{{name: "ingress"}, {name: "operator", process: "headgate"}, {name: "console"}, {name: "console-operator", process: "console"}, {name: "watch"}, {name: "support"}, {name: "billing"}}
	for _, w := range append(workerNames(), "expenses") {
		all = append(all, role{name: w})
	}
	users := f.in.options(f.T, "server.conf", "nats").Nkeys
	for i, r := range all {
		all[i].process = cmp.Or(r.process, r.name)
		key := f.in.publicKey(f.T, r.name)
		user := users[slices.IndexFunc(users, func(u *server.NkeyUser) bool { return u.Nkey == key })]
		if user.Permissions != nil {
			all[i].may = user.Permissions.Publish.Allow
			continue
		}
		for _, im := range accountsOf(f.T, f.in)[user.Account.GetName()].Imports {
			all[i].may = append(all[i].may, im.local())
		}
	}
	return all
}

func (r role) allowed(subject string) bool {
	if r.name == "writes" && strings.HasPrefix(subject, "codat.plans.") {
		return true // it is the one that is asked
	}
	return slices.ContainsFunc(r.may, func(pattern string) bool { return server.SubjectsCollide(pattern, subject) })
}

// withstands fails when a role changes more than it may.
func (f *deployment) withstands(t *testing.T, r role) {
	nc, _ := f.in.connect(t, f.nodes[len(f.nodes)-1], r.name, r.process)
	for _, changes := range f.attack(t, nc, r) {
		t.Errorf("%s: %s", r.name, changes)
	}
}

// reportsInsider checks the check: a user in the account of the streams, with permission for nothing but getting events,
// changes streams in this way, and attack reports it.
func (f *deployment) reportsInsider(t *testing.T) {
	nc, err := nats.Connect(f.nodes[len(f.nodes)-1].url(), nats.UserInfo(insider, "p"), nats.CustomInboxPrefix("_INBOX_"+insider))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	changes := strings.Join(f.attack(t, nc, role{insider, insider, []string{insiderMay}}), "\n")
	for _, want := range []string{"asked $JS.API.STREAM.DELETE.CODAT", "asked $JS.API.CONSUMER.DELETE.CODAT.connections", "KV_CODAT_claims_connections"} {
		if !strings.Contains(changes, want) {
			t.Errorf("the attack reports\n%s\nwant %q in it", changes, want)
		}
	}
}

// attack tries everything as a role, and returns what has changed that the role may not change.
func (f *deployment) attack(t *testing.T, nc *nats.Conn, r role) (changes []string) {
	before := f.state(t, r)
	nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // refusals are what is to come
	var targets []target
	for _, tt := range slices.Concat(dangerous, stored) {
		if !r.allowed(tt.subject) {
			targets = append(targets, tt)
		}
	}
	inbox := "_INBOX_" + r.process + "." + nuid.Next()
	answers, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range targets {
		for _, body := range tt.bodies {
			f.send(nc, &nats.Msg{Subject: tt.subject, Reply: inbox, Data: []byte(body)})
			// As a team asks, and with a prefix of another's.
			if api, ok := strings.CutPrefix(tt.subject, "$JS.API."); ok {
				f.send(nc, &nats.Msg{Subject: "HEADGATE.API." + api, Reply: inbox, Data: []byte(body)})
			}
		}
	}
	for _, pattern := range r.may {
		for _, m := range requests(pattern) {
			for _, tt := range targets {
				m.Reply = tt.subject
				f.send(nc, m)
				// A trace of a message is sent to a subject of the sender's choice too.
				traced := &nats.Msg{Subject: m.Subject, Reply: inbox, Data: m.Data, Header: nats.Header{"Nats-Trace-Dest": {tt.subject}, "Nats-Trace-Only": {"true"}}}
				maps.Copy(traced.Header, m.Header)
				f.send(nc, traced)
			}
			if err := answered(t, nc, m); err != nil {
				changes = append(changes, err.Error())
			}
		}
	}
	_ = answers.Unsubscribe()
	if diff := gocmp.Diff(before, f.state(t, r)); diff != "" {
		changes = append(changes, "it has changed (-before +after):\n"+diff)
	}
	f.hasHeard(t)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, subject := range f.asked {
		if slices.ContainsFunc(targets, func(tt target) bool { return tt.subject == subject }) {
			changes = append(changes, "it has asked "+subject)
		}
	}
	f.asked = nil
	return changes
}

func (f *deployment) send(nc *nats.Conn, m *nats.Msg) {
	if err := nc.PublishMsg(m); err != nil {
		f.Errorf("publish to %s: %v", m.Subject, err)
	}
}

// answered returns when the server has answered m to the sender's own inbox, and so all that it was asked before.
func answered(t *testing.T, nc *nats.Conn, m *nats.Msg) error {
	own := *m
	own.Reply = ""
	if strings.Contains(string(own.Data), `"expires":`) {
		own.Data = []byte(fmt.Sprintf(`{"batch":1,"expires":%d}`, 2*expiry))
	}
	if _, err := nc.RequestMsgWithContext(within(t), &own); err != nil {
		return fmt.Errorf("%s %s is not answered: %w", own.Subject, own.Data, err)
	}
	return nil
}

// expiry is of a pull that waits.
const expiry = 20 * time.Millisecond

// requests are what a role may ask under a pattern: each with an answer that is empty, is found, or is an error.
func requests(pattern string) []*nats.Msg {
	fill := strings.NewReplacer("*", "CODAT", ">", "x")
	subject := fill.Replace(pattern)
	bodies := func(subject string, bodies ...string) (all []*nats.Msg) {
		for _, b := range bodies {
			all = append(all, &nats.Msg{Subject: subject, Data: []byte(b)})
		}
		return all
	}
	switch {
	case strings.Contains(pattern, ".MSG.NEXT."):
		return bodies(subject, `{"batch":1,"no_wait":true}`, fmt.Sprintf(`{"batch":1,"expires":%d}`, expiry))
	case strings.Contains(pattern, ".DIRECT.GET."):
		gets := []string{`{"seq":99999999}`, `{"seq":1}`, `{"last_by_subj":"nothing"}`, `{"seq":99999999,"batch":2}`, `{"seq":1,"batch":4,"next_by_subj":"codat.events.connection.>"}`}
		switch base, rest := strings.CutSuffix(pattern, ".>"); {
		case !rest:
			return bodies(pattern, gets...)
		case strings.HasSuffix(base, ".GET"):
			return append(bodies(base+".CODAT", gets...), bodies(base+".KV_CODAT_claims_connections.$KV.CODAT_claims_connections.nothing", "")...)
		default:
			bucket := base[strings.LastIndex(base, ".KV_")+4:]
			return append(bodies(base+".$KV."+bucket+".nothing.nothing", ""), bodies(base+".$KV."+bucket+".known.known", "")...)
		}
	case strings.Contains(pattern, "STREAM.MSG.GET."):
		return bodies(subject, `{"seq":99999999}`, `{"seq":1}`)
	case strings.Contains(pattern, "CONSUMER.INFO."):
		return bodies(strings.Replace(pattern, "*.*", "CODAT.connections", 1), "")
	case strings.Contains(pattern, "CONSUMER.PAUSE."):
		// The answer is that of a pause which is over.
		return bodies(strings.Replace(pattern, "*", "connections", 1), "", `{"pause_until":"0001-01-01T00:00:00Z"}`)
	case pattern == "codat.find":
		return bodies(pattern, "", `{"id":"x"}`, `{"ids":["x"]}`)
	case strings.HasPrefix(pattern, "codat.plans."):
		return bodies(strings.Replace(pattern, "*", "submit", 1), "", "{}")
	case strings.HasPrefix(pattern, "$JS.ACK.*"):
		return nil // of servers to come
	case strings.HasPrefix(pattern, "_INBOX_"):
		return nil // it stays in the role's own account
	case strings.HasPrefix(pattern, "$JS.ACK."):
		return bodies(strings.Replace(pattern, ">", "1.1.1.1.0", 1), "+ACK", "-NAK", "+WPI", "+TERM")
	case strings.Contains(pattern, ".API."):
		return bodies(subject, "", "{}")
	}
	// What is stored: a message that is known, and one that is refused. Both are acknowledged, and change nothing.
	subject = strings.Replace(pattern, ">", "other", 1)
	wrong := &nats.Msg{Subject: subject, Header: nats.Header{jetstream.ExpectedStreamHeader: {"another"}}}
	if strings.HasPrefix(pattern, "$KV.") || pattern == "codat.operator" {
		return []*nats.Msg{wrong}
	}
	if pattern == "codat.redrive.>" {
		subject = "codat.redrive.other.other"
	}
	again := &nats.Msg{Subject: subject, Data: []byte("{}"), Header: nats.Header{jetstream.MsgIDHeader: {known(subject)}}}
	return []*nats.Msg{wrong, again}
}

// state is everything that is stored and set, but the role's own consumers, from which it may take.
func (f *deployment) state(t *testing.T, r role) map[string]any {
	t.Helper()
	// By now the servers have done what they were asked before: what is asked of them now is done last.
	if _, err := f.js.CreateStream(within(t), jetstream.StreamConfig{Name: "LAST", Subjects: []string{"last"}, Storage: jetstream.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	if err := f.js.DeleteStream(within(t), "LAST"); err != nil {
		t.Fatal(err)
	}
	state := map[string]any{}
	streams := f.js.ListStreams(within(t))
	for info := range streams.Info() {
		name := info.Config.Name
		s := info.State
		state[name] = map[string]any{
			"config": info.Config, "created": info.Created, "messages": s.Msgs, "first": s.FirstSeq, "last": s.LastSeq, "deleted": s.NumDeleted,
		}
		st, err := f.js.Stream(within(t), name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			delete(state, name) // the list was older than its deletion
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		consumers := st.ListConsumers(within(t))
		for c := range consumers.Info() {
			if c.Name == r.name {
				state[name+"."+c.Name] = map[string]any{"config": c.Config, "created": c.Created, "paused": c.Paused}
				continue
			}
			state[name+"."+c.Name] = map[string]any{
				"config": c.Config, "created": c.Created, "paused": c.Paused, "floor": c.AckFloor.Stream, "delivered": c.Delivered.Stream, "out": c.NumAckPending,
			}
		}
		if err := consumers.Err(); errors.Is(err, jetstream.ErrStreamNotFound) {
			delete(state, name)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := streams.Err(); err != nil {
		t.Fatal(err)
	}
	return state
}

// An account is what accounts.conf says of one.
type account struct{ Imports, Exports []service }

// A service is a line of imports or exports.
type service struct {
	From, Subject, To string
	Accounts          []string
}

// local is the subject in the account that imports.
func (s service) local() string {
	if s.To != "" {
		return s.To
	}
	return s.Subject
}

// accountsOf reads accounts.conf.
func accountsOf(t *testing.T, in installation) map[string]*account {
	t.Helper()
	all, err := conf.ParseFile(filepath.Join(in.config, "accounts.conf"))
	if err != nil {
		t.Fatal(err)
	}
	accounts := map[string]*account{}
	for name, v := range all["accounts"].(map[string]any) {
		lists := v.(map[string]any)
		a := &account{}
		for _, v := range anyList(lists["imports"]) {
			im := v.(map[string]any)
			from := im["service"].(map[string]any)
			s := service{From: from["account"].(string), Subject: from["subject"].(string)}
			s.To, _ = im["to"].(string)
			a.Imports = append(a.Imports, s)
		}
		for _, v := range anyList(lists["exports"]) {
			ex := v.(map[string]any)
			s := service{Subject: ex["service"].(string)}
			for _, name := range anyList(ex["accounts"]) {
				s.Accounts = append(s.Accounts, name.(string))
			}
			a.Exports = append(a.Exports, s)
		}
		accounts[name] = a
	}
	return accounts
}

func anyList(v any) []any {
	list, _ := v.([]any)
	return list
}

// What the user of a role may publish is what its account imports, and HEADGATE or a worker's account exports exactly that to
// it: between two exports that both match, a server chooses at random.
func TestAccounts_ImportWhatTheirUsersMayPublish(t *testing.T) {
	t.Parallel()
	in := install(t)
	accounts := accountsOf(t, in)
	for _, user := range in.options(t, "server.conf", "nats").Nkeys {
		name := user.Account.GetName()
		if name == "HEADGATE" || name == "SYSTEM" {
			continue
		}
		var imported []string
		for _, im := range accounts[name].Imports {
			if im.Subject != "$JS.API.INFO" || slices.Contains(user.Permissions.Publish.Allow, im.Subject) {
				imported = append(imported, im.local())
			}
		}
		slices.Sort(imported)
		may := slices.Sorted(slices.Values(user.Permissions.Publish.Allow))
		may = slices.DeleteFunc(may, func(subject string) bool { return strings.HasPrefix(subject, "_INBOX_") }) // of its own account
		if diff := gocmp.Diff(may, imported); diff != "" {
			t.Errorf("what %s imports differs from what its user may publish (-may +imports):\n%s", name, diff)
		}
	}
	for name, a := range accounts {
		for _, im := range a.Imports {
			if im.From == "TEAMS" || im.From == "WORKERS" { // they export patterns
				continue
			}
			exact := slices.IndexFunc(accounts[im.From].Exports, func(ex service) bool { return ex.Subject == im.Subject })
			if exact < 0 {
				t.Errorf("%s imports %s, which %s does not export by this name", name, im.Subject, im.From)
			} else if ex := accounts[im.From].Exports[exact]; im.Subject != "$JS.API.INFO" && !slices.Contains(ex.Accounts, name) {
				t.Errorf("%s imports %s, which %s exports to %v only", name, im.Subject, im.From, ex.Accounts)
			}
		}
		if name != "HEADGATE" && name != "TEAMS" && name != "SYSTEM" && !slices.ContainsFunc(a.Imports, func(im service) bool { return im.local() == "$JS.API.INFO" }) {
			t.Errorf("%s does not import $JS.API.INFO: it has a $JS.API of its own, which answers beside HEADGATE's", name)
		}
	}
}
