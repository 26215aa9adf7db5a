package load_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate/bench/load"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/signature"
)

func TestSigner_SignsRequestsThatVerify(t *testing.T) {
	for _, size := range []int{load.MinSize, 600, 100_000} {
		secret := load.NewSecret()
		key, err := signature.ParseKey(secret)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		verifier := signature.NewVerifier(time.Minute, func() time.Time { return now }, key)
		signer, err := load.NewSigner(secret, size)
		if err != nil {
			t.Fatal(err)
		}
		ids, bodies := map[string]bool{}, map[string]bool{}
		var batch load.Batch
		for _, n := range []int{100, 7} { // the second time over the first
			signer.Sign(&batch, n, now)
			if batch.Len() != n {
				t.Fatalf("Len() = %d after Sign(%d); want as many", batch.Len(), n)
			}
			for i := range n {
				h, body, err := load.Read(batch.Request(i))
				if err != nil {
					t.Fatalf("request %d of %d bytes: %v", i, size, err)
				}
				unverified, err := verifier.Read(h)
				if err != nil {
					t.Fatalf("headers of request %d: %v", i, err)
				}
				verified, err := verifier.Verify(unverified, body)
				if err != nil {
					t.Fatalf("request %d: %v; want it verified", i, err)
				}
				head, err := codat.Read(body)
				if err != nil || head.Type != load.Type || len(body) != size {
					t.Errorf("body of %d bytes = %q, %v; want %s in %d bytes", len(body), head.Type, err, load.Type, size)
				}
				ids[verified.ID], bodies[string(body)] = true, true
			}
		}
		if len(ids) != 107 || len(bodies) != 107 {
			t.Errorf("107 requests of %d bytes have %d ids and %d bodies; want each its own", size, len(ids), len(bodies))
		}
	}
}

func TestKeysSignInTurn(t *testing.T) {
	secrets := []string{load.NewSecret(), load.NewSecret(), load.NewSecret()}
	signer, err := load.NewSigner(secrets[0], 600, secrets[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	var batch load.Batch
	signer.Sign(&batch, 10, time.Now())
	for i := range batch.Len() {
		key, err := signature.ParseKey(secrets[i%3])
		if err != nil {
			t.Fatal(err)
		}
		h, body, err := load.Read(batch.Request(i))
		if err != nil {
			t.Fatal(err)
		}
		verifier := signature.NewVerifier(time.Minute, nil, key)
		unverified, err := verifier.Read(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verifier.Verify(unverified, body); err != nil {
			t.Errorf("request %d: %v; want it signed with key %d", i, err, i%3)
		}
	}
}

func TestSignersShareNoIDs(t *testing.T) {
	ids := map[string]bool{}
	secret := load.NewSecret()
	for range 2 {
		signer, err := load.NewSigner(secret, 600)
		if err != nil {
			t.Fatal(err)
		}
		var batch load.Batch
		signer.Sign(&batch, 10, time.Now())
		for i := range 10 {
			h, _, err := load.Read(batch.Request(i))
			if err != nil {
				t.Fatal(err)
			}
			ids[h.Get("webhook-id")] = true
		}
	}
	if len(ids) != 20 {
		t.Errorf("two signers made %d ids for 20 requests; want 20", len(ids))
	}
}

func TestNewSignerRefuses(t *testing.T) {
	if _, err := load.NewSigner(load.NewSecret(), load.MinSize-1); err == nil {
		t.Error("NewSigner() = nil for a body in which an event has no room")
	}
	if _, err := load.NewSigner("whsec_?", 600); err == nil {
		t.Error("NewSigner() = nil for a key that is not base64")
	}
	if _, err := load.NewSigner(load.NewSecret(), 600, "whsec_?"); err == nil {
		t.Error("NewSigner() = nil for one more key that is not base64")
	}
}

func BenchmarkSign(b *testing.B) {
	signer, err := load.NewSigner(load.NewSecret(), 600)
	if err != nil {
		b.Fatal(err)
	}
	var batch load.Batch
	for b.Loop() {
		signer.Sign(&batch, 1000, time.Now())
	}
}
