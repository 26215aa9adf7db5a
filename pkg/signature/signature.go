// Package signature proves that a request was signed by Codat, which signs as Svix and Standard
// Webhooks do. It promises that whatever it returns as proven was covered by the signature: the
// official library proves, this package decides which headers and which key it proves with.
package signature

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Why a request is not proven. Read returns the first two, Prove the others.
var (
	// ErrMissing: no family of headers has an id, a timestamp and a signature.
	ErrMissing = errors.New("signature headers are missing")
	// ErrMalformed: the headers are there, but nobody who signs would send them so.
	ErrMalformed = errors.New("signature headers are malformed")
	// ErrNoMatch: forged, changed on the way, or signed with a key that is not ours.
	ErrNoMatch = errors.New("no key matches the signature")
	// ErrTooOld: the signature matches, but its time lies before the tolerance: a request that was
	// kept and sent again, or a clock, ours or theirs, that is wrong.
	ErrTooOld = errors.New("signed too long ago")
	// ErrTooNew: the signature matches, but its time lies after the tolerance: a clock is wrong.
	ErrTooNew = errors.New("signed in the future")
	// ErrBusy: it had to wait for its turn longer than until the time that Until gave it.
	ErrBusy = errors.New("too much to prove at a time")
)

// What the signature headers of one family may hold. Svix sends one signature for each key that it
// has not retired yet, of which there are at most eleven.
const (
	maxSignatures     = 16
	maxSignatureBytes = 4 << 10
	maxTimestamp      = 11 // digits: until the year 5138
)

// What a request that does not prove may cost.
const (
	likely    = 2        // keys that are tried at once, whatever the body: the last ones that matched
	easy      = 64 << 10 // bytes that a proof may hash without waiting for its turn
	smallBody = 16 << 10 // as nearly every event has: the library may copy it before a key is known to match
)

// turns are what proofs that are not easy take and give back. There is one machine, and so one of
// each for all Verifiers.
var turns = newTurns(runtime.GOMAXPROCS(0))

// A turnSet is turns for small bodies, which never wait behind large ones, and turns for those.
type turnSet struct{ small, large chan struct{} }

// newTurns makes the turns of strangers, and as many that are Codat's alone. A flood of forgeries
// leaves CPUs to those who can prove what they say: from four on, a set has half of them at most. Of
// three it leaves one. With fewer, forgeries that are small and large at the same time can have them
// all, two proofs at a time, and all others share the CPUs with these two.
func newTurns(cpus int) (all struct{ strangers, codats turnSet }) {
	for _, set := range []*turnSet{&all.strangers, &all.codats} {
		set.small = make(chan struct{}, max(1, cpus/2-cpus/4))
		set.large = make(chan struct{}, max(1, cpus/4))
	}
	return all
}

// A Verifier proves requests under any of its keys. It is safe for concurrent use.
//
// A request that does not prove costs one HMAC for each key and for each of at most two families of
// headers that differ. Of a body that is not small, the library, which copies it, sees only what a
// key matched; and when bodies and keys make more work than a moment's, proofs beyond the two keys
// that matched last take turns: small bodies with small ones, what comes from Codat's own addresses
// with its like.
type Verifier struct {
	tolerance time.Duration
	now       func() time.Time
	keys      atomic.Pointer[[]*key] // the most recently matched first; never changed in place
}

// NewVerifier returns a Verifier which accepts requests that were signed within tolerance of now,
// before or after, under one of the keys. Without keys it proves nothing. A nil now is time.Now.
func NewVerifier(tolerance time.Duration, now func() time.Time, keys ...Key) *Verifier {
	if now == nil {
		now = time.Now
	}
	v := &Verifier{tolerance: tolerance, now: now}
	v.SetKeys(keys...)
	return v
}

// SetKeys replaces the keys, while requests run: each request is proven under the keys before or
// those after. A key that is given twice counts once, a zero Key not at all. Keys that stay keep
// their place, those that are new come behind them.
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

// Unproven is what the headers of a request claim. Nothing in it may be believed before Prove.
type Unproven struct {
	families []family
	until    time.Time
	codat    bool
}

// Until is the same, with a time until which Prove may let it wait for its turn. Without one it waits
// as long as it takes.
func (u Unproven) Until(t time.Time) Unproven {
	u.until = t
	return u
}

// FromCodat is the same, and says whether it came from an address of Codat's own: then it waits for
// nobody else's turn.
func (u Unproven) FromCodat(yes bool) Unproven {
	u.codat = yes
	return u
}

// A family is the triple of headers under one prefix.
type family struct {
	name       string // "webhook" or "svix"
	id         string
	timestamp  string
	at         time.Time
	signatures string   // as they came, the lines joined by a space
	v1         []string // the base64 of those that could match
}

// The names of the headers, in the order in which the families are tried. White-labelled, as Codat
// sends them, first.
var families = [...]struct{ name, id, timestamp, signature string }{
	{"webhook", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"},
	{"svix", "Svix-Id", "Svix-Timestamp", "Svix-Signature"},
}

// Read checks what can be checked before the body is read: that at least one family of headers is
// complete, that its id and timestamp say one thing, that its timestamp is a plain number of seconds
// and that one of its signatures could match. A family that fails never spoils the other one.
// It returns ErrMissing or ErrMalformed.
func (v *Verifier) Read(h http.Header) (Unproven, error) {
	var u Unproven
	var malformed error
	for _, names := range families {
		f, err := readFamily(h[names.id], h[names.timestamp], h[names.signature])
		switch {
		case errors.Is(err, ErrMissing):
		case err != nil:
			malformed = fmt.Errorf("%s-%w", names.name, err)
		case len(u.families) == 1 && u.families[0].same(f):
			// The other family repeats this one: it would prove, or not, just the same.
		default:
			f.name = names.name
			u.families = append(u.families, f)
		}
	}
	switch {
	case len(u.families) > 0:
		return u, nil
	case malformed != nil:
		return Unproven{}, malformed
	}
	return Unproven{}, ErrMissing
}

// readFamily reads the lines of one family. Its errors begin with the last part of a header's name,
// so that the caller can put the family before it.
func readFamily(ids, timestamps, signatures []string) (family, error) {
	f := family{signatures: join(signatures)}
	var ok bool
	if f.id, ok = only(ids); !ok {
		return family{}, fmt.Errorf("id: %w: its lines differ", ErrMalformed)
	}
	if f.timestamp, ok = only(timestamps); !ok {
		return family{}, fmt.Errorf("timestamp: %w: its lines differ", ErrMalformed)
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
	return f, nil
}

// only returns what all lines of a header say; false when they do not agree.
func only(lines []string) (string, bool) {
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

// readTimestamp is stricter than the library, which signs the number and not the text: with a sign
// or leading zeros the text that we store would no longer prove elsewhere.
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

// readSignatures returns the base64 of those signatures that could match. It cuts as the library
// does: at spaces, then at commas, of which a proxy that joins lines may add one at the end.
// Versions that are unknown are passed over: the sender may sign in more than one way.
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
		return nil, fmt.Errorf("%w: none is v1, and the base64 of 32 bytes", ErrMalformed)
	}
	return v1, nil
}

func couldBeSum(s string) bool {
	var sum [sumSize + 1]byte // the decoder wants room for whole groups of three
	if len(s) != encodedSumSize {
		return false
	}
	n, err := base64.StdEncoding.Decode(sum[:], []byte(s))
	return err == nil && n == sumSize
}

func (f family) same(other family) bool {
	return f.id == other.id && f.timestamp == other.timestamp && f.signatures == other.signatures
}

// headers is a clean set with this family alone, under the names that the library looks for first.
func (f family) headers() http.Header {
	v := [...]string{f.id, f.timestamp, f.signatures}
	return http.Header{"Svix-Id": v[0:1:1], "Svix-Timestamp": v[1:2:2], "Svix-Signature": v[2:3:3]}
}

// Proof is what a signature was proven to cover, from the family that proved and from no other.
type Proof struct {
	// ID is the webhook-id, any text that a header can carry. It may contain dots: together with
	// Timestamp and the body it is proven, cut elsewhere the same bytes would be another id.
	ID string
	// Timestamp and Signature are the family's own, several signatures joined by a space, so that
	// whoever has the key can prove the same body again.
	Timestamp, Signature string
	// At is Timestamp as a time.
	At time.Time
	// Family is "webhook" or "svix".
	Family string
	// Key is the fingerprint of the key that matched.
	Key string
}

// Prove proves the body with the families in u, in their order, under the keys, the most recently
// matched first. It neither changes nor keeps the body. It returns ErrNoMatch; or ErrTooOld or
// ErrTooNew when a signature matched but its time is out of tolerance: a forged request never learns
// that, and never raises the alarm that belongs to a wrong clock. ErrBusy says nothing about the
// request: the sender should try again.
func (v *Verifier) Prove(u Unproven, body []byte) (Proof, error) {
	err := ErrNoMatch
	t := turn{until: u.until, of: turns.strangers.of(body)}
	if u.codat {
		t.of = turns.codats.of(body)
	}
	defer t.end()
	for _, f := range u.families {
		k, busy := v.match(&t, f, body)
		if busy != nil {
			return Proof{}, busy
		}
		if k == nil {
			continue
		}
		if late := v.inTime(f); late != nil {
			err = fmt.Errorf("%w, id %q, key %s", late, f.id, k.fingerprint)
			continue
		}
		return Proof{
			ID:        f.id,
			Timestamp: f.timestamp,
			Signature: f.signatures,
			At:        f.at,
			Family:    f.name,
			Key:       k.fingerprint,
		}, nil
	}
	return Proof{}, err
}

// match returns the key under which the library proves the family, nil for none, and moves it to
// the front.
func (v *Verifier) match(t *turn, f family, body []byte) (*key, error) {
	ring := v.keys.Load()
	headers := f.headers()
	var prefix []byte
	for i, k := range *ring {
		if i == likely && len(body)*len(*ring) > easy {
			if err := t.wait(); err != nil {
				return nil, err
			}
		}
		if i > 0 || len(body) > smallBody {
			if prefix == nil {
				prefix = []byte(f.id + "." + f.timestamp + ".")
			}
			// For each key the library copies the body twice. With fifty keys a forgery would cost
			// a hundred copies: it is sifted by HMACs that copy nothing.
			if !k.signed(prefix, body, f.v1) {
				continue
			}
		}
		if k.webhook.VerifyIgnoringTimestamp(body, headers) != nil {
			continue
		}
		if i > 0 {
			front := slices.Concat([]*key{k}, (*ring)[:i], (*ring)[i+1:])
			v.keys.CompareAndSwap(ring, &front) // lost to a rotation or another match: as well
		}
		return k, nil
	}
	return nil, nil
}

func (s turnSet) of(body []byte) chan struct{} {
	if len(body) > smallBody {
		return s.large
	}
	return s.small
}

// A turn is a request's among those that are hard to prove.
type turn struct {
	until time.Time
	of    chan struct{}
	come  bool
}

// wait returns when it has come, at once when it had before. One that is free comes however late it is.
func (t *turn) wait() error {
	if t.come {
		return nil
	}
	select {
	case t.of <- struct{}{}:
		t.come = true
		return nil
	default:
	}
	var late <-chan time.Time
	if !t.until.IsZero() {
		timer := time.NewTimer(time.Until(t.until))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case t.of <- struct{}{}:
		t.come = true
		return nil
	case <-late:
		return ErrBusy
	}
}

func (t *turn) end() {
	if t.come {
		<-t.of
	}
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
