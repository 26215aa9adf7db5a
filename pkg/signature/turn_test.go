package signature

import (
	"context"
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
	prove := func(ctx context.Context, k Key, body string) error {
		now := time.Now()
		u, err := v.Read(http.Header{
			"Webhook-Id":        {"msg_1"},
			"Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)},
			"Webhook-Signature": {k.Sign("msg_1", now, []byte(body))},
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.ProveWithin(ctx, u, []byte(body))
		return err
	}
	small, large := strings.Repeat("x", 600), strings.Repeat("x", 1<<20)

	for range cap(turns) {
		turns <- struct{}{}
	}
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	tests := []struct {
		name string
		ctx  context.Context
		key  Key
		body string
		want error
	}{
		{"a large forgery", late, forger, large, ErrBusy},
		{"a large one under a key that has not matched yet", late, keys[49], large, ErrBusy},
		{"a small forgery", t.Context(), forger, small, ErrNoMatch},
		{"a small one under that key", t.Context(), keys[49], small, nil},
		{"now it has: a large one", t.Context(), keys[49], large, nil},
	}
	for _, tt := range tests {
		if err := prove(tt.ctx, tt.key, tt.body); !errors.Is(err, tt.want) {
			t.Errorf("%s: ProveWithin = %v; want %v", tt.name, err, tt.want)
		}
	}
	waiting := make(chan error)
	go func() { waiting <- prove(t.Context(), forger, large) }()
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
