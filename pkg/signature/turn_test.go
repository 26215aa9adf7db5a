package signature

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
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

// fifty returns a Verifier of fifty keys, them, and one that is not of them.
func fifty(t *testing.T) (v *Verifier, keys []Key, forger Key) {
	t.Helper()
	for n := range 51 {
		k, err := ParseKey("whsec_" + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "the key of number %10d", n)))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	return NewVerifier(time.Minute, nil, keys[:50]...), keys[:50], keys[50]
}

// claim reads the headers of a request that is signed with a key.
func claim(t *testing.T, v *Verifier, k Key, body []byte) Unproven {
	t.Helper()
	now := time.Now()
	u, err := v.Read(http.Header{
		"Webhook-Id":        {"msg_1"},
		"Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)},
		"Webhook-Signature": {k.Sign("msg_1", now, body)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// take takes all turns of these; what it returns gives them back.
func take(all ...chan struct{}) (give func()) {
	for _, of := range all {
		for range cap(of) {
			of <- struct{}{}
		}
	}
	return func() {
		for _, of := range all {
			for range cap(of) {
				<-of
			}
		}
	}
}

// An easy body under fifty keys, one that is small and not easy, and one that is not small.
var easyBody, hardBody, largeBody = bytes.Repeat([]byte("x"), 600), bytes.Repeat([]byte("x"), smallBody), bytes.Repeat([]byte("x"), 1<<20)

// What is hard to prove waits only for the turns of its like. The key is the last of the fifty: nothing is tried sooner.
func TestWhoWaitsForWhichTurns(t *testing.T) {
	small, large := turns.strangers.small, turns.strangers.large
	codatsSmall, codatsLarge := turns.codats.small, turns.codats.large
	tests := []struct {
		name  string
		taken []chan struct{}
		codat bool
		body  []byte
		want  error
	}{
		{"an easy one waits for none", []chan struct{}{small, large, codatsSmall, codatsLarge}, false, easyBody, nil},
		{"a small one waits for small ones", []chan struct{}{small}, false, hardBody, ErrBusy},
		{"but for nothing else", []chan struct{}{large, codatsSmall, codatsLarge}, false, hardBody, nil},
		{"a large one waits for large ones", []chan struct{}{large}, false, largeBody, ErrBusy},
		{"but for nothing else", []chan struct{}{small, codatsSmall, codatsLarge}, false, largeBody, nil},
		{"a small one of Codat's waits for Codat's", []chan struct{}{codatsSmall}, true, hardBody, ErrBusy},
		{"but not for strangers", []chan struct{}{small, large, codatsLarge}, true, hardBody, nil},
		{"a large one of Codat's waits for Codat's", []chan struct{}{codatsLarge}, true, largeBody, ErrBusy},
		{"but not for strangers", []chan struct{}{small, large, codatsSmall}, true, largeBody, nil},
	}
	for _, tt := range tests {
		v, keys, _ := fifty(t)
		give := take(tt.taken...)
		// It is late already: a turn that is free comes nevertheless, and nothing else does.
		u := claim(t, v, keys[49], tt.body).Until(time.Now().Add(-time.Second)).FromCodat(tt.codat)
		if _, err := v.Prove(u, tt.body); !errors.Is(err, tt.want) {
			t.Errorf("%s: Prove = %v; want %v", tt.name, err, tt.want)
		}
		give()
	}
}

// The keys that matched last are tried at once; a forgery of a body that is not easy waits for its turn.
func TestWhatMatchedLastTakesNoTurn(t *testing.T) {
	v, keys, forger := fifty(t)
	give := take(turns.strangers.small, turns.strangers.large)
	past := time.Now().Add(-time.Second)
	tests := []struct {
		name string
		key  Key
		body []byte
		want error
	}{
		{"a large one under a key that has not matched yet", keys[49], largeBody, ErrBusy},
		{"an easy one under it", keys[49], easyBody, nil},
		{"now it has: a large one", keys[49], largeBody, nil},
		{"a large forgery", forger, largeBody, ErrBusy},
		{"a small forgery", forger, hardBody, ErrBusy},
		{"an easy forgery", forger, easyBody, ErrNoMatch},
	}
	for _, tt := range tests {
		if _, err := v.Prove(claim(t, v, tt.key, tt.body).Until(past), tt.body); !errors.Is(err, tt.want) {
			t.Errorf("%s: Prove = %v; want %v", tt.name, err, tt.want)
		}
	}
	patient, waiting := claim(t, v, forger, largeBody), make(chan error)
	go func() {
		_, err := v.Prove(patient, largeBody)
		waiting <- err
	}()
	give()
	if err := <-waiting; !errors.Is(err, ErrNoMatch) {
		t.Errorf("a large forgery, when its turn has come: %v; want %v", err, ErrNoMatch)
	}
	if small, large := len(turns.strangers.small), len(turns.strangers.large); small > 0 || large > 0 {
		t.Errorf("%d and %d turns were not given back", small, large)
	}
}

func TestStrangersHaveHalfOfTheCPUs(t *testing.T) {
	for cpus := 1; cpus <= 64; cpus++ {
		set := newTurns(cpus).strangers
		small, large := cap(set.small), cap(set.large)
		if small < 1 || large < 1 || small+large > max(2, cpus/2) {
			t.Errorf("of %d CPUs, small bodies have %d and large ones %d; want one each, and both together half at most", cpus, small, large)
		}
	}
}
