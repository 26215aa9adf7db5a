package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"
	"time"

	svix "github.com/svix/svix-webhooks/go"
)

const (
	keyPrefix   = "whsec_"
	minKeyBytes = 24 // the size of Svix's keys, and the minimum of Standard Webhooks

	sumSize        = sha256.Size
	encodedSumSize = 44
)

// A Key signs and verifies. Printed, marshalled or logged, it shows only its fingerprint. The zero Key verifies nothing,
// and its signatures are empty.
type Key struct {
	*key
}

// key holds secrets behind pointers and closures only: fmt calls no method of an unexported field, and follows one
// pointer for a verb that does not fit.
type key struct {
	digest      [sha256.Size]byte // of the key's bytes: its identity
	fingerprint string
	webhook     *svix.Webhook
	sums        sync.Pool // of *sum
	// mac is the HMAC of a text under a key that is derived from this one: Diagnose tries the mistakes that senders make.
	mac func(derive func(key []byte) []byte, text []byte) []byte
}

// A sum is an HMAC with its key set, and buffers for its result.
type sum struct {
	hash.Hash
	bytes   [sumSize]byte
	encoded [encodedSumSize]byte
}

// ParseKey reads a signing secret as Codat's Portal shows it: whsec_ and the standard base64 of at least 24 bytes. It
// ignores white space around it and a byte order mark before it. An error names the cure and never the key.
func ParseKey(s string) (Key, error) {
	s = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(s), "\uFEFF"))
	encoded, ok := strings.CutPrefix(s, keyPrefix)
	switch {
	case s == "":
		return Key{}, errors.New("key is empty: give the signing secret of the endpoint, whsec_…")
	case strings.ContainsAny(s, " \t\r\n"):
		return Key{}, errors.New("key has white space inside: give one key at a time")
	case strings.ContainsAny(s, `"'`):
		return Key{}, errors.New("key has quotes in it: give it without them")
	case strings.HasPrefix(s, "v1a,"), strings.HasPrefix(s, "whsk_"), strings.HasPrefix(s, "whpk_"):
		return Key{}, errors.New("key is one of an asymmetric pair (ed25519, signatures v1a), which Codat does not sign with: give the signing secret of the endpoint, whsec_…")
	case strings.HasPrefix(s, "v1,"):
		return Key{}, errors.New("key begins with v1,: give the part from whsec_ on")
	case !ok:
		return Key{}, errors.New("key does not begin with whsec_: give the signing secret of the endpoint, all of it")
	case encoded == "":
		return Key{}, errors.New("key is empty after whsec_: give the signing secret of the endpoint, all of it")
	case strings.ContainsAny(encoded, "-_"):
		return Key{}, errors.New("key is in base64url: give it in standard base64, with + and / for - and _")
	}
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return Key{}, errors.New("key is not standard base64 after whsec_: it may be cut off, give all of it, with = at the end if it has one")
	}
	if len(b) < minKeyBytes {
		return Key{}, fmt.Errorf("key is %d bytes long, at least %d are needed: it may be cut off, give all of it", len(b), minKeyBytes)
	}
	webhook, err := svix.NewWebhookRaw(b)
	if err != nil {
		return Key{}, errors.New("key is not accepted by the Svix library: give the signing secret of the endpoint, all of it")
	}
	digest := sha256.Sum256(b)
	return Key{&key{
		digest:      digest,
		fingerprint: hex.EncodeToString(digest[:4]),
		webhook:     webhook,
		sums:        sync.Pool{New: func() any { return &sum{Hash: hmac.New(sha256.New, b)} }},
		mac: func(derive func(key []byte) []byte, text []byte) []byte {
			h := hmac.New(sha256.New, derive(b))
			h.Write(text)
			return h.Sum(nil)
		},
	}}, nil
}

// Fingerprint identifies a key without revealing it: the first 8 hexadecimal digits of the SHA-256 of the key's bytes.
func (k Key) Fingerprint() string {
	if k.key == nil {
		return ""
	}
	return k.fingerprint
}

// Sign returns the signature, "v1,…", for the header webhook-signature of a request with id in webhook-id and at, in
// whole seconds since 1970, in webhook-timestamp.
func (k Key) Sign(id string, at time.Time, body []byte) string {
	if k.key == nil {
		return ""
	}
	signature, err := k.webhook.Sign(id, at, body)
	if err != nil { // the library never returns one
		return ""
	}
	return signature
}

// String returns the fingerprint.
func (k Key) String() string { return k.Fingerprint() }

// Format writes the fingerprint, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.Fingerprint()) }

// MarshalText returns the fingerprint; so do JSON and YAML.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.Fingerprint()), nil }

func (k *key) same(other *key) bool { return k.digest == other.digest }

// prefiltered reports whether one of the signatures is this key's over prefix and body. It allocates nothing. It is a
// filter only: the library verifies what it lets through.
func (k *key) prefiltered(prefix, body []byte, signatures []string) bool {
	s := k.sums.Get().(*sum)
	defer k.sums.Put(s)
	s.Reset()
	_, _ = s.Write(prefix) // a hash never returns an error
	_, _ = s.Write(body)
	base64.StdEncoding.Encode(s.encoded[:], s.Sum(s.bytes[:0]))
	for _, one := range signatures {
		if hmac.Equal([]byte(one), s.encoded[:]) {
			return true
		}
	}
	return false
}
