// Package signature verifies that a request was signed by Codat, which signs as Svix and Standard Webhooks do. Whatever
// it returns as verified was covered by the signature: the official library verifies, and this package decides which
// headers and which keys it verifies with.
package signature

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Errors of Read (the first two) and Verify (the others).
var (
	// ErrMissing: no family of headers has an id, a timestamp and a signature.
	ErrMissing = errors.New("signature headers are missing")
	// ErrMalformed: the headers are there, in a form that no signer sends.
	ErrMalformed = errors.New("signature headers are malformed")
	// ErrNoMatch: forged, changed on the way, or signed with a key that is not configured.
	ErrNoMatch = errors.New("no key matches the signature")
	// ErrTooOld: the signature matches, but its time is before the tolerance: the request was kept and sent again, or a
	// clock is wrong, the sender's or ours.
	ErrTooOld = errors.New("signed too long ago")
	// ErrTooNew: the signature matches, but its time is after the tolerance: a clock is wrong.
	ErrTooNew = errors.New("signed in the future")
	// ErrBusy: no slot of its pool was free in time. It says nothing about the request: the sender should try again.
	ErrBusy = errors.New("too many verifications at a time")
)

// Limits of the signature headers of one family. Svix sends one signature for each key that it has not retired yet, of
// which there are at most eleven.
const (
	maxSignatures     = 16
	maxSignatureBytes = 4 << 10
	maxTimestamp      = 11 // digits: until the year 5138
)

// Limits of what an unauthenticated request may cost.
const (
	recentKeys = 2        // keys that are tried without a slot, whatever the body: those that matched last
	cheapLimit = 64 << 10 // bytes that a verification may hash without a slot
	smallBody  = 16 << 10 // nearly every event is smaller: the library may copy it before a key is known to match
)

// A Verifier verifies requests under any of its keys. It is safe for concurrent use.
//
// A forged request costs one HMAC for each key and for each of at most two families of headers that differ. The library
// copies the body, so a body over 16 KiB is passed to it only for a key that is known to match. A verification that
// hashes more than 64 KiB under keys other than the two that matched last needs a slot of its [SlotPool].
type Verifier struct {
	tolerance time.Duration
	now       func() time.Time
	keys      atomic.Pointer[[]*key] // the most recently matched first; never changed in place
}

// NewVerifier returns a Verifier that accepts requests that were signed within tolerance of now, before or after, under
// one of the keys. Without keys it accepts none. A nil now means time.Now.
func NewVerifier(tolerance time.Duration, now func() time.Time, keys ...Key) *Verifier {
	if now == nil {
		now = time.Now
	}
	v := &Verifier{tolerance: tolerance, now: now}
	v.SetKeys(keys...)
	return v
}

// SetKeys replaces the keys. Each request is verified under all keys from before or all keys from after. Duplicates and
// zero Keys are dropped. Keys that stay keep their order; new ones come after them.
func (v *Verifier) SetKeys(keys ...Key) {
	ring := make([]*key, 0, len(keys))
	for _, k := range keys {
		if k.key == nil || slices.ContainsFunc(ring, k.same) {
			continue
		}
		ring = append(ring, k.key)
	}
	if before := v.keys.Load(); before != nil {
		place := func(k *key) int {
			if i := slices.IndexFunc(*before, k.same); i >= 0 {
				return i
			}
			return len(*before)
		}
		slices.SortStableFunc(ring, func(a, b *key) int { return place(a) - place(b) })
	}
	v.keys.Store(&ring)
}

// Keys returns the fingerprints of the keys, sorted.
func (v *Verifier) Keys() []string {
	var prints []string
	for _, k := range *v.keys.Load() {
		prints = append(prints, k.fingerprint)
	}
	slices.Sort(prints)
	return prints
}

// Unverified is what the headers of a request claim. Nothing in it may be trusted before Verify.
type Unverified struct {
	families []family
	pool     *SlotPool
	until    time.Time
}

// WithSlots returns a copy whose verification, when it is expensive, waits for a slot of the pool until the deadline.
// Without a pool the number of verifications has no limit.
func (u Unverified) WithSlots(pool *SlotPool, until time.Time) Unverified {
	u.pool, u.until = pool, until
	return u
}

// A family is the three headers with one prefix.
type family struct {
	name       string // "webhook" or "svix"
	id         string
	timestamp  string
	at         time.Time
	signatures string   // those of v1 in the form that every verifier reads: v1,base64, joined by a space
	v1         []string // the base64 of the signatures that could match
}

// families are the names of the headers, in the order in which they are tried: first the white-labelled ones, which
// Codat sends.
var families = [...]struct{ name, id, timestamp, signature string }{
	{"webhook", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"},
	{"svix", "Svix-Id", "Svix-Timestamp", "Svix-Signature"},
}

// Read checks what can be checked before the body is read: at least one family of headers is complete, its id and
// timestamp have one value each, the timestamp is a plain number of seconds, and one of the signatures could match. An
// invalid family does not affect the other one. Read returns ErrMissing or ErrMalformed.
func (v *Verifier) Read(h http.Header) (Unverified, error) {
	var u Unverified
	var malformed error
	for _, names := range families {
		f, err := readFamily(h[names.id], h[names.timestamp], h[names.signature])
		switch {
		case errors.Is(err, ErrMissing):
		case err != nil:
			malformed = fmt.Errorf("%s-%w", names.name, err)
		case len(u.families) == 1 && u.families[0].same(f):
			// The other family has the same values and would give the same result.
		default:
			f.name = names.name
			u.families = append(u.families, f)
		}
	}
	switch {
	case len(u.families) > 0:
		return u, nil
	case malformed != nil:
		return Unverified{}, malformed
	}
	return Unverified{}, ErrMissing
}

// readFamily reads the headers of one family. Its errors begin with the last part of a header's name: the caller adds
// the name of the family before it.
func readFamily(ids, timestamps, signatures []string) (family, error) {
	f := family{signatures: join(signatures)}
	var ok bool
	if f.id, ok = single(ids); !ok {
		return family{}, fmt.Errorf("id: %w: the header occurs more than once, with different values", ErrMalformed)
	}
	if f.timestamp, ok = single(timestamps); !ok {
		return family{}, fmt.Errorf("timestamp: %w: the header occurs more than once, with different values", ErrMalformed)
	}
	if f.id == "" || f.timestamp == "" || f.signatures == "" {
		return family{}, ErrMissing
	}
	var err error
	if f.at, err = readTimestamp(f.timestamp); err != nil {
		return family{}, fmt.Errorf("timestamp: %w", err)
	}
	if f.v1, err = readSignatures(f.signatures); err != nil {
		return family{}, fmt.Errorf("signature: %w", err)
	}
	f.signatures = canonical(f.signatures, f.v1)
	return f, nil
}

// single returns the common value of all lines of a header, or false when they differ.
func single(lines []string) (string, bool) {
	if len(lines) == 0 {
		return "", true
	}
	for _, line := range lines[1:] {
		if line != lines[0] {
			return "", false
		}
	}
	return lines[0], true
}

func join(lines []string) string {
	if len(lines) == 1 {
		return lines[0]
	}
	return strings.Join(lines, " ")
}

// readTimestamp is stricter than the library, which signs the number and not the text: with a sign or leading zeros, the
// stored text would not verify elsewhere.
func readTimestamp(s string) (time.Time, error) {
	if len(s) > maxTimestamp || (s[0] == '0' && s != "0") || strings.Trim(s, "0123456789") != "" {
		return time.Time{}, fmt.Errorf("%w: not a plain number of seconds since 1970", ErrMalformed)
	}
	seconds, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: not a plain number of seconds since 1970", ErrMalformed)
	}
	return time.Unix(seconds, 0), nil
}

// readSignatures returns the base64 of the signatures that could match. It splits as the library does: at spaces, then
// at commas, because a proxy that joins lines may add one. It skips unknown versions: a sender may sign in several ways.
func readSignatures(s string) ([]string, error) {
	if len(s) > maxSignatureBytes {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, maxSignatureBytes)
	}
	var v1 []string
	count := 0
	for one := range strings.SplitSeq(s, " ") {
		if one == "" {
			continue
		}
		if count++; count > maxSignatures {
			return nil, fmt.Errorf("%w: more than %d signatures", ErrMalformed, maxSignatures)
		}
		rest, ok := strings.CutPrefix(one, "v1,")
		if !ok {
			continue
		}
		if sum, _, _ := strings.Cut(rest, ","); couldBeSum(sum) {
			v1 = append(v1, sum)
		}
	}
	if len(v1) == 0 {
		return nil, fmt.Errorf("%w: none is v1 with the base64 of 32 bytes (v1a, ed25519, is not verified)", ErrMalformed)
	}
	return v1, nil
}

// canonical returns the signatures as every verifier reads them. What other verifiers refuse, such as a comma that a proxy
// added, is left out, so that what is stored verifies again. received is returned as it is when it has this form.
func canonical(received string, v1 []string) string {
	const size = len("v1,") + encodedSumSize
	if len(received) == len(v1)*(size+1)-1 {
		return received
	}
	return "v1," + strings.Join(v1, " v1,")
}

func couldBeSum(s string) bool {
	var sum [sumSize + 1]byte // the decoder writes whole groups of three bytes
	if len(s) != encodedSumSize {
		return false
	}
	n, err := base64.StdEncoding.Decode(sum[:], []byte(s))
	return err == nil && n == sumSize
}

func (f family) same(other family) bool {
	return f.id == other.id && f.timestamp == other.timestamp && f.signatures == other.signatures
}

// headers returns this family alone, under the names that the library looks for first.
func (f family) headers() http.Header {
	v := [...]string{f.id, f.timestamp, f.signatures}
	return http.Header{"Svix-Id": v[0:1:1], "Svix-Timestamp": v[1:2:2], "Svix-Signature": v[2:3:3]}
}

// Verified is what a signature covers, from the family that matched and from no other.
type Verified struct {
	// ID is the webhook-id, any text that a header can carry. It may contain dots: the signature covers ID, Timestamp and
	// body joined by dots, so the same signature also matches the same text split at another dot.
	ID string
	// Timestamp is the family's own. Signature has the family's signatures of version 1, joined by a space. With them and the
	// key, any verifier of Standard Webhooks can verify the body again.
	Timestamp, Signature string
	// At is Timestamp as a time.
	At time.Time
	// Family is "webhook" or "svix".
	Family string
	// Key is the fingerprint of the key that matched.
	Key string
}

// Verify verifies the body with the families of u, in their order, under the keys, those that matched last first. It
// neither changes nor keeps the body. It returns ErrNoMatch, ErrTooOld or ErrTooNew when a signature matched but its time
// is out of tolerance, or ErrBusy. A forged request is always ErrNoMatch, so that it raises no alarm about a clock.
func (v *Verifier) Verify(u Unverified, body []byte) (Verified, error) {
	err := ErrNoMatch
	waiting := slot{pool: u.pool.forBody(body), until: u.until}
	defer waiting.release()
	for _, f := range u.families {
		k, busy := v.match(&waiting, f, body)
		if busy != nil {
			return Verified{}, busy
		}
		if k == nil {
			continue
		}
		if late := v.inTime(f); late != nil {
			err = fmt.Errorf("%w, id %q, key %s", late, f.id, k.fingerprint)
			continue
		}
		return Verified{
			ID:        f.id,
			Timestamp: f.timestamp,
			Signature: f.signatures,
			At:        f.at,
			Family:    f.name,
			Key:       k.fingerprint,
		}, nil
	}
	return Verified{}, err
}

// match returns the key under which the library verifies the family, or nil, and moves it to the front.
func (v *Verifier) match(s *slot, f family, body []byte) (*key, error) {
	ring := v.keys.Load()
	headers := f.headers()
	var prefix []byte
	for i, k := range *ring {
		if i == recentKeys && len(body)*len(*ring) > cheapLimit {
			if err := s.acquire(); err != nil {
				return nil, err
			}
		}
		if i > 0 || len(body) > smallBody {
			if prefix == nil {
				prefix = []byte(f.id + "." + f.timestamp + ".")
			}
			// The library copies the body twice for each key. An HMAC of our own, which copies nothing, filters the keys
			// before it.
			if !k.prefiltered(prefix, body, f.v1) {
				continue
			}
		}
		if k.webhook.VerifyIgnoringTimestamp(body, headers) != nil {
			continue
		}
		if i > 0 {
			front := slices.Concat([]*key{k}, (*ring)[:i], (*ring)[i+1:])
			v.keys.CompareAndSwap(ring, &front) // a rotation or another match may win: the order is only a hint
		}
		return k, nil
	}
	return nil, nil
}

func (v *Verifier) inTime(f family) error {
	switch age := v.now().Sub(f.at); {
	case age > v.tolerance:
		return fmt.Errorf("%w: %s ago, the tolerance is %s", ErrTooOld, age.Round(time.Second), v.tolerance)
	case age < -v.tolerance: // not -age > v.tolerance: the least Duration has no positive
		return fmt.Errorf("%w: %s ahead, the tolerance is %s", ErrTooNew, f.at.Sub(v.now()).Round(time.Second), v.tolerance)
	}
	return nil
}
