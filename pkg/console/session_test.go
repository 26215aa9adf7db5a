package console

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// A log-in by an unknown name is compared at the cost of the others.
func TestNoPassword_CostsAsMuch(t *testing.T) {
	t.Parallel()
	if cost, err := bcrypt.Cost([]byte(productionHash)); err != nil || cost != productionCost {
		t.Errorf("the cost is %d, %v; want %d", cost, err, productionCost)
	}
}

// Under a name under which many have failed, a client that has not failed may try, and one that has may not.
func TestAttempts_LockNobodyOut(t *testing.T) {
	t.Parallel()
	a, now := newAttempts(1), time.Now()
	client := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, n}) }
	for n := range byte(nameBurst) {
		if !a.count(client(n), "anna", now) {
			t.Fatalf("client %d may not try", n)
		}
	}
	if a.count(client(0), "anna", now) {
		t.Error("a client that has failed may try under a name over its limit")
	}
	if !a.count(client(0), "viktor", now) {
		t.Error("it may not try under another name")
	}
	done, ok := a.begin(client(100), "anna", now)
	if !ok {
		t.Fatal("a client that has not failed may not try")
	}
	done()
	a.succeeded(client(100), now)
	if !a.count(client(100), "anna", now) {
		t.Error("a client that has succeeded may not try again")
	}
	if !a.count(client(0), "anna", now.Add(clientBurst*clientRefill)) {
		t.Error("a minute later, a client that has failed may not try")
	}
}

// No cookie but the one that was made is a session.
func FuzzSession(f *testing.F) {
	now := time.Unix(1_800_000_000, 0) // the same in each process that fuzzes
	all := users{"anna": {Name: "anna", Password: "hash"}}
	s := &sessions{key: []byte(strings.Repeat("k", minSessionKey)), age: time.Hour}
	one := session{name: "anna", id: encoding.EncodeToString(make([]byte, 16)), ends: now.Add(s.age)}
	value := one.text() + "." + encoding.EncodeToString(s.sign(one.text(), all["anna"]))
	f.Add(value)
	f.Add(value + ".")
	f.Add(strings.Replace(value, ".", "=.", 1))
	f.Add("....")
	f.Fuzz(func(t *testing.T, cookie string) {
		if _, _, ok := s.open(cookie, all, now); ok != (cookie == value) {
			t.Errorf("open(%q) = %v", cookie, ok)
		}
	})
}

// A file of users is refused, or each of its users has a credential and may view.
func FuzzUsers(f *testing.F) {
	f.Add("users:\n- name: anna\n  token: " + HashToken("x") + "\n  rights: [view]\n")
	f.Add("users: [{name: a, password: " + noPassword + ", rights: [view, operate]}]")
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(t.TempDir(), "users.yml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := readUsers(file)
		if err != nil {
			return
		}
		for name, e := range all {
			if name != e.user.Name || !e.user.View || e.Password == "" && e.Token == "" {
				t.Errorf("%q has the user %+v", text, e)
			}
		}
	})
}
