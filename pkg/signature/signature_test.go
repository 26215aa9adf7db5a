package signature_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/signature"
)

const tolerance = 5 * time.Minute

func at(when time.Time) func() time.Time { return func() time.Time { return when } }

// signed returns the headers of a request as one family carries them.
func signed(k signature.Key, family, id string, when time.Time, body string) http.Header {
	return http.Header{
		http.CanonicalHeaderKey(family + "-id"):        {id},
		http.CanonicalHeaderKey(family + "-timestamp"): {strconv.FormatInt(when.Unix(), 10)},
		http.CanonicalHeaderKey(family + "-signature"): {k.Sign(id, when, []byte(body))},
	}
}

// with returns both sets of headers in one; where both have a header, the later set's counts.
func with(sets ...http.Header) http.Header {
	all := http.Header{}
	for _, set := range sets {
		maps.Copy(all, set)
	}
	return all
}

func verify(v *signature.Verifier, h http.Header, body string) (signature.Verified, error) {
	u, err := v.Read(h)
	if err != nil {
		return signature.Verified{}, err
	}
	return v.Verify(u, []byte(body))
}

func TestVerify_DocumentedVector(t *testing.T) {
	t.Parallel()
	k := parse(t, vectorKey)
	v := signature.NewVerifier(tolerance, at(vectorTime.Add(time.Minute)), k)
	for _, family := range []string{"webhook", "svix"} {
		h := http.Header{}
		h.Set(family+"-id", vectorID)
		h.Set(family+"-timestamp", vectorTimestamp)
		h.Set(family+"-signature", vectorSignature)
		got, err := verify(v, h, vectorBody)
		want := signature.Verified{
			ID: vectorID, Timestamp: vectorTimestamp, Signature: vectorSignature,
			At: vectorTime, Family: family, Key: k.Fingerprint(),
		}
		if err != nil || got != want {
			t.Errorf("%s: Prove = %+v, %v; want %+v", family, got, err, want)
		}
	}
}

// Strict verifiers split a signature at its comma and stop at a second one. What Verify returns is what they read.
func TestVerify_ReturnsSignaturesThatVerifyAgain(t *testing.T) {
	t.Parallel()
	k := key(t, 1)
	v := signature.NewVerifier(tolerance, at(vectorTime), k)
	good := k.Sign("msg_a", vectorTime, []byte(vectorBody))
	other := key(t, 2).Sign("msg_a", vectorTime, []byte(vectorBody))
	for _, tt := range []struct {
		received []string
		want     string
	}{
		{[]string{good}, good},
		{[]string{good + " " + other}, good + " " + other},
		{[]string{good + ","}, good},
		{[]string{good + ", " + other}, good + " " + other},
		{[]string{good + ",x,y"}, good},
		{[]string{other, good}, other + " " + good},
		{[]string{"v1a,AAAA v2 , " + good + "  v1,short"}, good},
	} {
		h := signed(k, "webhook", "msg_a", vectorTime, vectorBody)
		h["Webhook-Signature"] = tt.received
		got, err := verify(v, h, vectorBody)
		if err != nil || got.Signature != tt.want {
			t.Errorf("%q: Verify = %q, %v; want %q", tt.received, got.Signature, err, tt.want)
		}
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	const body = `{"eventType":"company.created"}`
	now := vectorTime
	k, other := key(t, 1), key(t, 2)
	ours := func(family, id string) http.Header { return signed(k, family, id, now, body) }
	theirs := func(family, id string) http.Header { return signed(other, family, id, now, body) }
	good := k.Sign("msg_a", now, []byte(body))
	garbage := "v1," + base64.StdEncoding.EncodeToString([]byte("these are some thirty-two bytes!"))
	set := func(name string, lines ...string) http.Header {
		return http.Header{http.CanonicalHeaderKey(name): lines}
	}
	without := func(h http.Header, name string) http.Header {
		h.Del(name)
		return h
	}

	tests := []struct {
		name   string
		header http.Header
		body   string
		id     string // of the verified headers
		family string
		err    error
	}{
		{"webhook family", ours("webhook", "msg_a"), body, "msg_a", "webhook", nil},
		{"svix family", ours("svix", "msg_a"), body, "msg_a", "svix", nil},
		{"both families with one id count once", with(ours("webhook", "msg_a"), ours("svix", "msg_a")), body, "msg_a", "webhook", nil},
		{"both families verify with different ids: the webhook family wins", with(ours("webhook", "msg_a"), ours("svix", "msg_b")), body, "msg_a", "webhook", nil},
		{"stray svix-id beside a valid webhook triple", with(ours("webhook", "msg_a"), set("svix-id", "msg_evil")), body, "msg_a", "webhook", nil},
		{"stray webhook-id beside a valid svix triple", with(ours("svix", "msg_a"), set("webhook-id", "msg_evil")), body, "msg_a", "svix", nil},
		{"stray webhook-signature beside a valid svix triple", with(ours("svix", "msg_a"), set("webhook-signature", good)), body, "msg_a", "svix", nil},
		{"forged svix triple beside a valid webhook triple", with(ours("webhook", "msg_a"), theirs("svix", "msg_evil")), body, "msg_a", "webhook", nil},
		{"forged webhook triple beside a valid svix triple", with(theirs("webhook", "msg_evil"), ours("svix", "msg_a")), body, "msg_a", "svix", nil},
		{"another id over the signature of the other family", with(ours("svix", "msg_a"), ours("webhook", "msg_a"), set("webhook-id", "msg_evil")), body, "msg_a", "svix", nil},
		{"garbage svix triple beside a valid webhook triple", with(ours("webhook", "msg_a"), set("svix-id", "x"), set("svix-timestamp", "soon"), set("svix-signature", "?")), body, "msg_a", "webhook", nil},
		{"garbage webhook triple beside a valid svix triple", with(ours("svix", "msg_a"), set("webhook-id", "x"), set("webhook-timestamp", "soon"), set("webhook-signature", "?")), body, "msg_a", "svix", nil},
		{"one triple over both families", with(without(ours("webhook", "msg_a"), "webhook-id"), without(without(ours("svix", "msg_a"), "svix-timestamp"), "svix-signature")), body, "", "", signature.ErrMissing},

		{"no headers", http.Header{}, body, "", "", signature.ErrMissing},
		{"id missing", without(ours("webhook", "msg_a"), "webhook-id"), body, "", "", signature.ErrMissing},
		{"timestamp missing", without(ours("webhook", "msg_a"), "webhook-timestamp"), body, "", "", signature.ErrMissing},
		{"signature missing", without(ours("webhook", "msg_a"), "webhook-signature"), body, "", "", signature.ErrMissing},
		{"id empty", with(ours("webhook", "msg_a"), set("webhook-id", "")), body, "", "", signature.ErrMissing},
		{"lines of the id differ", with(ours("webhook", "msg_a"), set("webhook-id", "msg_a", "msg_evil")), body, "", "", signature.ErrMalformed},
		{"lines of the id differ, the first one is empty", with(ours("webhook", "msg_a"), set("webhook-id", "", "msg_a")), body, "", "", signature.ErrMalformed},
		{"lines of the timestamp differ", with(ours("webhook", "msg_a"), set("webhook-timestamp", vectorTimestamp, "1614265331")), body, "", "", signature.ErrMalformed},
		{"lines of the id differ, the other family is whole", with(ours("webhook", "msg_a"), set("webhook-id", "msg_a", "msg_evil"), ours("svix", "msg_b")), body, "msg_b", "svix", nil},
		{"the same line twice", with(ours("webhook", "msg_a"), set("webhook-id", "msg_a", "msg_a"), set("webhook-timestamp", vectorTimestamp, vectorTimestamp)), body, "msg_a", "webhook", nil},

		{"several signatures, the last one is ours", with(ours("webhook", "msg_a"), set("webhook-signature", garbage+" v1a,AAAA  v2,x "+good)), body, "msg_a", "webhook", nil},
		{"several lines of signatures", with(ours("webhook", "msg_a"), set("webhook-signature", garbage, "v1a,AAAA", good+" "+garbage)), body, "msg_a", "webhook", nil},
		{"lines that a proxy joined by commas", with(ours("webhook", "msg_a"), set("webhook-signature", good+", "+garbage)), body, "msg_a", "webhook", nil},
		{"sixteen signatures", with(ours("webhook", "msg_a"), set("webhook-signature", strings.Repeat(garbage+" ", 15)+good)), body, "msg_a", "webhook", nil},
		{"seventeen signatures", with(ours("webhook", "msg_a"), set("webhook-signature", strings.Repeat(garbage+" ", 16)+good)), body, "", "", signature.ErrMalformed},
		{"seventeen lines of signatures", with(ours("webhook", "msg_a"), set("webhook-signature", slices.Repeat([]string{good}, 17)...)), body, "", "", signature.ErrMalformed},
		{"more than 4 KiB of signatures", with(ours("webhook", "msg_a"), set("webhook-signature", good+" v2,"+strings.Repeat("A", 4096))), body, "", "", signature.ErrMalformed},
		{"signature without a version", with(ours("webhook", "msg_a"), set("webhook-signature", strings.TrimPrefix(good, "v1,"))), body, "", "", signature.ErrMalformed},
		{"signature of another version", with(ours("webhook", "msg_a"), set("webhook-signature", "v2"+good[2:])), body, "", "", signature.ErrMalformed},
		{"signature cut short", with(ours("webhook", "msg_a"), set("webhook-signature", good[:len(good)-4])), body, "", "", signature.ErrMalformed},
		{"signature that is not base64", with(ours("webhook", "msg_a"), set("webhook-signature", "v1,"+strings.Repeat("*", 44))), body, "", "", signature.ErrMalformed},
		{"signature that is blank", with(ours("webhook", "msg_a"), set("webhook-signature", "  ")), body, "", "", signature.ErrMalformed},

		{"another key", theirs("webhook", "msg_a"), body, "", "", signature.ErrNoMatch},
		{"body changed", ours("webhook", "msg_a"), body + " ", "", "", signature.ErrNoMatch},
		{"body missing", ours("webhook", "msg_a"), "", "", "", signature.ErrNoMatch},
		{"id changed", with(ours("webhook", "msg_a"), set("webhook-id", "msg_evil")), body, "", "", signature.ErrNoMatch},
		{"timestamp changed", with(ours("webhook", "msg_a"), set("webhook-timestamp", "1614265331")), body, "", "", signature.ErrNoMatch},
		{"empty body, signed", signed(k, "webhook", "msg_a", now, ""), "", "msg_a", "webhook", nil},
		{"an id with other characters is verified unchanged", signed(k, "webhook", "msg.a/é b", now, body), body, "msg.a/é b", "webhook", nil},
	}
	v := signature.NewVerifier(tolerance, at(now), k)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := verify(v, tt.header, tt.body)
			if !errors.Is(err, tt.err) || got.ID != tt.id || got.Family != tt.family {
				t.Fatalf("Prove = id %q by %q, %v; want id %q by %q, %v", got.ID, got.Family, err, tt.id, tt.family, tt.err)
			}
			if err == nil && (got.Key != k.Fingerprint() || !got.At.Equal(now) || got.Timestamp != vectorTimestamp) {
				t.Errorf("Prove = %+v; want the key and the time that were signed with", got)
			}
		})
	}
}

func TestVerified_CanBeVerifiedAgain(t *testing.T) {
	t.Parallel()
	const body = "{}"
	k := key(t, 1)
	v := signature.NewVerifier(tolerance, at(vectorTime), k)
	h := signed(k, "svix", "msg_a", vectorTime, body)
	h["Svix-Signature"] = []string{"v1a,AAAA", h.Get("svix-signature")}
	first, err := verify(v, h, body)
	if err != nil {
		t.Fatal(err)
	}
	stored := http.Header{}
	stored.Set("webhook-id", first.ID)
	stored.Set("webhook-timestamp", first.Timestamp)
	stored.Set("webhook-signature", first.Signature)
	if again, err := verify(v, stored, body); err != nil || again.ID != first.ID {
		t.Errorf("Verify of the verified headers = %+v, %v; want the same id", again, err)
	}
}

func TestRead_RefusesTimestampsThatAreNotPlainSeconds(t *testing.T) {
	t.Parallel()
	const body = "{}"
	k := key(t, 1)
	v := signature.NewVerifier(tolerance, at(vectorTime), k)
	for _, timestamp := range []string{
		"+1614265330", "-1614265330", "01614265330", "00", "1614265330.0", "1614265330000", "1e9", "0x60", "1_614_265_330",
		"soon", " 1614265330", "１６１４２６５３３０", "99999999999999999999", "9223372036854775807", "9223372036854775808",
	} {
		h := signed(k, "webhook", "msg_a", vectorTime, body)
		h.Set("webhook-timestamp", timestamp)
		if _, err := v.Read(h); !errors.Is(err, signature.ErrMalformed) {
			t.Errorf("Read with the timestamp %q = %v; want %v", timestamp, err, signature.ErrMalformed)
		}
	}
}

func TestVerify_ReportsTheToleranceOnlyForAMatchingSignature(t *testing.T) {
	t.Parallel()
	const body = "{}"
	k, other := key(t, 1), key(t, 2)
	now := vectorTime.Add(300 * time.Millisecond)
	tests := []struct {
		name string
		when time.Time
		key  signature.Key
		want error
	}{
		{"signed now", vectorTime, k, nil},
		{"as old as the tolerance", vectorTime.Add(-tolerance + time.Second), k, nil},
		{"older by a second", vectorTime.Add(-tolerance - time.Second), k, signature.ErrTooOld},
		{"signed in 1970", time.Unix(0, 0), k, signature.ErrTooOld},
		{"as new as the tolerance", vectorTime.Add(tolerance), k, nil},
		{"newer by a second", vectorTime.Add(tolerance + time.Second), k, signature.ErrTooNew},
		{"so new that a Duration cannot say it", time.Unix(99_999_999_999, 0), k, signature.ErrTooNew},
		{"old and forged", vectorTime.Add(-time.Hour), other, signature.ErrNoMatch},
		{"new and forged", vectorTime.Add(time.Hour), other, signature.ErrNoMatch},
	}
	v := signature.NewVerifier(tolerance, at(now), k)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := verify(v, signed(tt.key, "webhook", "msg_a", tt.when, body), body)
			if !errors.Is(err, tt.want) {
				t.Errorf("Prove = %v; want %v", err, tt.want)
			}
		})
	}

	t.Run("a family that is too old never spoils one that is not", func(t *testing.T) {
		h := with(signed(k, "webhook", "msg_old", vectorTime.Add(-time.Hour), body), signed(k, "svix", "msg_a", vectorTime, body))
		if got, err := verify(v, h, body); err != nil || got.ID != "msg_a" {
			t.Errorf("Prove = %q, %v; want msg_a", got.ID, err)
		}
	})
	t.Run("the tolerance can be set", func(t *testing.T) {
		wide := signature.NewVerifier(2*time.Hour, at(now), k)
		if _, err := verify(wide, signed(k, "webhook", "msg_a", vectorTime.Add(-time.Hour), body), body); err != nil {
			t.Errorf("Prove = %v; want no error", err)
		}
	})
	t.Run("without a clock it is now", func(t *testing.T) {
		if _, err := verify(signature.NewVerifier(tolerance, nil, k), signed(k, "webhook", "msg_a", time.Now(), body), body); err != nil {
			t.Errorf("Prove = %v; want no error", err)
		}
	})
}

func TestVerify_UnderEachOfManyKeys(t *testing.T) {
	t.Parallel()
	const body = `{"eventType":"company.created"}`
	var keys []signature.Key
	for n := range 50 {
		keys = append(keys, key(t, n))
	}
	v := signature.NewVerifier(tolerance, at(vectorTime), keys...)
	for round := range 2 {
		for n, k := range keys {
			got, err := verify(v, signed(k, "webhook", "msg_a", vectorTime, body), body)
			if err != nil || got.Key != k.Fingerprint() {
				t.Fatalf("round %d: Prove under key %d = %q, %v; want %q", round, n, got.Key, err, k.Fingerprint())
			}
		}
	}
	if _, err := verify(v, signed(key(t, 50), "webhook", "msg_a", vectorTime, body), body); !errors.Is(err, signature.ErrNoMatch) {
		t.Errorf("Prove under a key that is not ours = %v; want %v", err, signature.ErrNoMatch)
	}
	if got := len(v.Keys()); got != len(keys) {
		t.Errorf("after all that there are %d keys; want %d", got, len(keys))
	}
}

func TestKeys_AreSortedWithoutDuplicates(t *testing.T) {
	t.Parallel()
	a, b, c := key(t, 1), key(t, 2), key(t, 3)
	v := signature.NewVerifier(tolerance, nil, c, a, key(t, 1), b)
	want := []string{a.Fingerprint(), b.Fingerprint(), c.Fingerprint()}
	slices.Sort(want)
	if got := v.Keys(); !slices.Equal(got, want) {
		t.Errorf("Keys() = %v; want %v", got, want)
	}
}

func TestVerify_WithoutKeys(t *testing.T) {
	t.Parallel()
	v := signature.NewVerifier(tolerance, at(vectorTime))
	if _, err := verify(v, signed(key(t, 1), "webhook", "msg_a", vectorTime, "{}"), "{}"); !errors.Is(err, signature.ErrNoMatch) {
		t.Errorf("Prove = %v; want %v", err, signature.ErrNoMatch)
	}
}

func TestSetKeys_WhileRequestsRun(t *testing.T) {
	t.Parallel()
	const body = "{}"
	const requests = 500
	before, between, after, gone := key(t, 1), key(t, 2), key(t, 3), key(t, 4)
	v := signature.NewVerifier(tolerance, at(vectorTime), gone, before, between)

	var senders, rotation sync.WaitGroup
	stop := make(chan struct{})
	rotation.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				v.SetKeys(between, after)
				v.SetKeys(gone, before, between)
			}
		}
	})
	for range 4 {
		senders.Go(func() {
			h := signed(between, "webhook", "msg_a", vectorTime, body)
			for range requests {
				if _, err := verify(v, h, body); err != nil {
					t.Errorf("under a key that was there all along: %v", err)
					return
				}
			}
		})
	}
	senders.Wait()
	close(stop)
	rotation.Wait()

	v.SetKeys(after)
	if _, err := verify(v, signed(between, "webhook", "msg_a", vectorTime, body), body); !errors.Is(err, signature.ErrNoMatch) {
		t.Errorf("under a key that was taken away: %v; want %v", err, signature.ErrNoMatch)
	}
	if _, err := verify(v, signed(after, "webhook", "msg_a", vectorTime, body), body); err != nil {
		t.Errorf("under the new key: %v", err)
	}
}

func TestVerify_DoesNotCopyAForgery(t *testing.T) {
	body := strings.Repeat("x", 1<<20)
	var keys []signature.Key
	for n := range 50 {
		keys = append(keys, key(t, n))
	}
	forged := signed(key(t, 50), "webhook", "msg_a", vectorTime, body)
	for _, n := range []int{1, 50} {
		v := signature.NewVerifier(tolerance, at(vectorTime), keys[:n]...)
		u, err := v.Read(forged)
		if err != nil {
			t.Fatal(err)
		}
		raw := []byte(body)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := v.Verify(u, raw); !errors.Is(err, signature.ErrNoMatch) {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if cost := after.TotalAlloc - before.TotalAlloc; cost > 1<<18 {
			t.Errorf("a forgery of 1 MiB allocates %d bytes under %d keys; want none of its body", cost, n)
		}
	}
}

// A key that matched stays first when other keys are added and removed.
func TestSetKeys_KeepsTheOrderOfKeysThatStay(t *testing.T) {
	t.Parallel()
	keys := []signature.Key{key(t, 1), key(t, 2), key(t, 3)}
	v := signature.NewVerifier(tolerance, at(vectorTime), keys...)
	body := strings.Repeat("x", 1<<20)
	if _, err := verify(v, signed(keys[2], "webhook", "msg_a", vectorTime, body), body); err != nil {
		t.Fatal(err)
	}
	v.SetKeys(key(t, 4), keys[0], keys[2])
	if got, want := v.Order(), []string{keys[2].Fingerprint(), keys[0].Fingerprint(), key(t, 4).Fingerprint()}; !slices.Equal(got, want) {
		t.Errorf("the keys are tried in the order %v; want %v", got, want)
	}
}

func FuzzVerify(f *testing.F) {
	k := key(f, 1)
	body := []byte(`{"eventType":"company.created"}`)
	good := k.Sign("msg_a", vectorTime, body)
	for _, line := range []string{good, "v1,AAAA " + good, good + ", " + good, good + "\n" + good, "v1,", "v1a,x", ""} {
		f.Add("msg_a", vectorTimestamp, line, "msg_b", vectorTimestamp, good, body)
		f.Add("msg_a\nmsg_b", "+1", line, "", "", "", []byte{})
		f.Add("", "", "", "msg_a", vectorTimestamp, line, body)
	}
	v := signature.NewVerifier(tolerance, at(vectorTime), key(f, 2), k)
	f.Fuzz(func(t *testing.T, id, timestamp, signatures, svixID, svixTimestamp, svixSignatures string, body []byte) {
		h := http.Header{}
		for name, lines := range map[string]string{
			"Webhook-Id": id, "Webhook-Timestamp": timestamp, "Webhook-Signature": signatures,
			"Svix-Id": svixID, "Svix-Timestamp": svixTimestamp, "Svix-Signature": svixSignatures,
		} {
			h[name] = strings.Split(lines, "\n")
		}
		got, err := verify(v, h, string(body))
		if err != nil {
			return
		}
		// A verified request was signed by the test, over exactly this id, time and body.
		want := k.Sign(got.ID, got.At, body)
		if got.Key != k.Fingerprint() || !strings.Contains(got.Signature, want) {
			t.Fatalf("verified without a signature of the test: %+v", got)
		}
		carried := map[string]string{"webhook": id, "svix": svixID}[got.Family]
		if first, _, _ := strings.Cut(carried, "\n"); first != got.ID {
			t.Fatalf("the id %q is not that of the family that matched: %q", got.ID, carried)
		}
		if got.Timestamp != strconv.FormatInt(got.At.Unix(), 10) {
			t.Fatalf("the timestamp %q is not the text that was signed, of %d", got.Timestamp, got.At.Unix())
		}
	})
}

// FuzzPrefiltered checks that the Verifier verifies what the library verifies under a key, also when that
// key is not the first one.
func FuzzPrefiltered(f *testing.F) {
	f.Add("msg_a", int64(1614265330), []byte("{}"))
	f.Add("a.b é", int64(0), []byte{})
	f.Fuzz(func(t *testing.T, id string, seconds int64, body []byte) {
		when := time.Unix(seconds, 0)
		if id == "" || seconds < 0 || seconds > 99_999_999_999 {
			return
		}
		k := key(t, 1)
		v := signature.NewVerifier(tolerance, at(when), key(t, 2), k)
		h := http.Header{
			"Webhook-Id":        {id},
			"Webhook-Timestamp": {fmt.Sprint(seconds)},
			"Webhook-Signature": {k.Sign(id, when, body)},
		}
		if got, err := verify(v, h, string(body)); err != nil || got.ID != id {
			t.Fatalf("Prove = %q, %v; want %q", got.ID, err, id)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	body := []byte(strings.Repeat("x", 600))
	k := key(b, 0)
	keys := []signature.Key{k}
	for n := range 49 {
		keys = append(keys, key(b, n+1))
	}
	real := signed(k, "webhook", "msg_a", vectorTime, string(body))
	forged := signed(key(b, 50), "webhook", "msg_a", vectorTime, string(body))
	for _, bb := range []struct {
		name   string
		header http.Header
		keys   int
	}{{"real, 1 key", real, 1}, {"real, 50 keys", real, 50}, {"forged, 1 key", forged, 1}, {"forged, 50 keys", forged, 50}} {
		b.Run(bb.name, func(b *testing.B) {
			v := signature.NewVerifier(tolerance, at(vectorTime), keys[:bb.keys]...)
			b.ReportAllocs()
			for b.Loop() {
				u, err := v.Read(bb.header)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = v.Verify(u, body)
			}
		})
	}
}
