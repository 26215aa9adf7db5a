package signature

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Order is the order in which the keys are tried, by their fingerprints.
func (v *Verifier) Order() []string {
	var prints []string
	for _, k := range *v.keys.Load() {
		prints = append(prints, k.fingerprint)
	}
	return prints
}

// While all turns are taken, what is hard to prove waits, and what is easy, or proves under a key that matched last,
// does not.
func TestWhatIsHardToProveWaitsForItsTurn(t *testing.T) {
	var keys []Key
	for n := range 51 {
		k, err := ParseKey("whsec_" + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "the key of number %10d", n)))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	forger, keys := keys[50], keys[:50]
	v := NewVerifier(time.Minute, nil, keys...)
	prove := func(until time.Time, k Key, body string) error {
		now := time.Now()
		u, err := v.Read(http.Header{
			"Webhook-Id":        {"msg_1"},
			"Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)},
			"Webhook-Signature": {k.Sign("msg_1", now, []byte(body))},
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Prove(u.Until(until), []byte(body))
		return err
	}
	small, large := strings.Repeat("x", 600), strings.Repeat("x", 1<<20)

	for range cap(turns) {
		turns <- struct{}{}
	}
	soon, whenever := time.Now().Add(time.Millisecond), time.Time{}
	tests := []struct {
		name  string
		until time.Time
		key   Key
		body  string
		want  error
	}{
		{"a large forgery", soon, forger, large, ErrBusy},
		{"a large one under a key that has not matched yet", soon, keys[49], large, ErrBusy},
		{"a small forgery", whenever, forger, small, ErrNoMatch},
		{"a small one under that key", whenever, keys[49], small, nil},
		{"now it has: a large one", whenever, keys[49], large, nil},
	}
	for _, tt := range tests {
		if err := prove(tt.until, tt.key, tt.body); !errors.Is(err, tt.want) {
			t.Errorf("%s: Prove = %v; want %v", tt.name, err, tt.want)
		}
	}
	waiting := make(chan error)
	go func() { waiting <- prove(whenever, forger, large) }()
	for range cap(turns) {
		<-turns
	}
	if err := <-waiting; !errors.Is(err, ErrNoMatch) {
		t.Errorf("a large forgery, when its turn has come: %v; want %v", err, ErrNoMatch)
	}
	if len(turns) > 0 {
		t.Errorf("%d turns were not given back", len(turns))
	}
}
