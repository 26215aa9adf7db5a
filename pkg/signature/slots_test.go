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

// Order returns the fingerprints of the keys in the order in which they are tried.
func (v *Verifier) Order() []string {
	var prints []string
	for _, k := range *v.keys.Load() {
		prints = append(prints, k.fingerprint)
	}
	return prints
}

// fifty returns a Verifier of fifty keys, these keys, and another key.
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

// claim returns the headers of a request that is signed with a key.
func claim(t *testing.T, v *Verifier, k Key, body []byte) Unverified {
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

// occupy acquires all slots; the function that it returns releases them.
func occupy(all ...chan struct{}) (release func()) {
	for _, slots := range all {
		for range cap(slots) {
			slots <- struct{}{}
		}
	}
	return func() {
		for _, slots := range all {
			for range cap(slots) {
				<-slots
			}
		}
	}
}

// Bodies whose verification under fifty keys is cheap, small and expensive, and large.
var cheapBody, smallest, largeBody = bytes.Repeat([]byte("x"), 600), bytes.Repeat([]byte("x"), smallBody), bytes.Repeat([]byte("x"), 1<<20)

// The key is the last of the fifty, so that none is found before it.
func TestVerify_WaitsOnlyForSlotsOfItsOwnKind(t *testing.T) {
	t.Parallel()
	pool, other := NewSlotPool(4), NewSlotPool(4)
	tests := []struct {
		name     string
		occupied []chan struct{}
		body     []byte
		want     error
	}{
		{"a cheap one needs no slot", []chan struct{}{pool.small, pool.large, other.small, other.large}, cheapBody, nil},
		{"a small body waits for small slots", []chan struct{}{pool.small}, smallest, ErrBusy},
		{"a small body waits for no other slot", []chan struct{}{pool.large, other.small, other.large}, smallest, nil},
		{"a large body waits for large slots", []chan struct{}{pool.large}, largeBody, ErrBusy},
		{"a large body waits for no other slot", []chan struct{}{pool.small, other.small, other.large}, largeBody, nil},
	}
	for _, tt := range tests {
		v, keys, _ := fifty(t)
		release := occupy(tt.occupied...)
		// The deadline has passed: only a slot that is free is acquired.
		u := claim(t, v, keys[49], tt.body).WithSlots(pool, time.Now().Add(-time.Second))
		if _, err := v.Verify(u, tt.body); !errors.Is(err, tt.want) {
			t.Errorf("%s: Verify = %v; want %v", tt.name, err, tt.want)
		}
		release()
	}
}

func TestVerify_TriesRecentKeysWithoutASlot(t *testing.T) {
	t.Parallel()
	v, keys, forger := fifty(t)
	pool := NewSlotPool(4)
	release := occupy(pool.small, pool.large)
	past := time.Now().Add(-time.Second)
	tests := []struct {
		name string
		key  Key
		body []byte
		want error
	}{
		{"a large body under a key that has not matched yet", keys[49], largeBody, ErrBusy},
		{"a cheap one under this key", keys[49], cheapBody, nil},
		{"a large body under this key, which has matched now", keys[49], largeBody, nil},
		{"a large forgery", forger, largeBody, ErrBusy},
		{"a small forgery", forger, smallest, ErrBusy},
		{"a cheap forgery", forger, cheapBody, ErrNoMatch},
	}
	for _, tt := range tests {
		if _, err := v.Verify(claim(t, v, tt.key, tt.body).WithSlots(pool, past), tt.body); !errors.Is(err, tt.want) {
			t.Errorf("%s: Verify = %v; want %v", tt.name, err, tt.want)
		}
	}
	patient, waiting := claim(t, v, forger, largeBody).WithSlots(pool, time.Now().Add(time.Minute)), make(chan error)
	go func() {
		_, err := v.Verify(patient, largeBody)
		waiting <- err
	}()
	release()
	if err := <-waiting; !errors.Is(err, ErrNoMatch) {
		t.Errorf("a large forgery after the slots are free: %v; want %v", err, ErrNoMatch)
	}
	if small, large := len(pool.small), len(pool.large); small > 0 || large > 0 {
		t.Errorf("%d small and %d large slots are still held; want none", small, large)
	}
}

func TestNewSlotPool_HasHalfOfTheCPUsAtMost(t *testing.T) {
	t.Parallel()
	for cpus := 1; cpus <= 64; cpus++ {
		pool := NewSlotPool(cpus)
		small, large := cap(pool.small), cap(pool.large)
		if small < 1 || large < 1 || small+large > max(2, cpus/2) {
			t.Errorf("of %d CPUs, small bodies have %d and large ones %d; want at least one each, and at most half together", cpus, small, large)
		}
	}
}
