package signature

import (
	"cmp"
	"crypto/hmac"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Diagnosis says whether a captured request is proven, or what is wrong with it.
type Diagnosis struct {
	// Code is ok, or the mistake: missing, malformed, too_old, too_new, body, truncated, key, signed_text, encoding, family, or
	// no_match when none of the mistakes that Diagnose knows explains the signature.
	Code string `json:"code"`
	// Text says in a sentence what was found, and Cure what to do; Cure is empty for ok.
	Text string `json:"text"`
	Cure string `json:"cure,omitempty"`
	// Evidence are facts about the request, none of them a key, a signature or a part of the body.
	Evidence []string `json:"evidence,omitempty"`
	// ID is the webhook-id of the signature that was explained, and Key the fingerprint of its key. At is its time when it is right.
	ID  string    `json:"id,omitempty"`
	At  time.Time `json:"at,omitzero"`
	Key string    `json:"key,omitempty"`
}

const (
	maxMade     = 256 << 20 // bytes of a body that Diagnose makes of the given one
	quickHashed = 4 << 20   // bytes that [Verifier.Diagnose] hashes for mistakes
)

// A diagnoser explains one request.
type diagnoser struct {
	*Verifier
	maxBody int // bytes of a body that is made of the given one, which has a quarter of them at most
	hashed  int // bytes that may still be hashed
	partial bool
}

// Diagnose verifies a captured request under the keys and says which of the known mistakes explains a signature that does
// not match: a body that was changed on the way, another form of the key or of the signed text, headers in another form or under
// other names, a clock. now is when the request arrived; with a tolerance of math.MaxInt64 it is not known. Diagnose runs hundreds
// of HMACs: it is for a person who has a question. [Verifier.Diagnose] is for a receiver.
func Diagnose(h http.Header, body []byte, now time.Time, tolerance time.Duration, keys ...Key) Diagnosis {
	if body == nil {
		body = []byte{}
	}
	d := diagnoser{NewVerifier(tolerance, func() time.Time { return now }, keys...), maxMade, math.MaxInt, false}
	return d.diagnose(h, body)
}

// Diagnose is the function Diagnose for a request that has just been refused, within bounds: it takes 10 ms or so. Mistakes are
// tried until 4 MiB have been hashed for them, and the evidence says when not all were. Of a body over 16 KiB there is only evidence,
// and Code is empty. A nil body was not read: the forms of headers are told, and not whether the signature is right.
func (v *Verifier) Diagnose(h http.Header, body []byte) Diagnosis {
	d := diagnoser{v, 4 * smallBody, quickHashed, false}
	return d.diagnose(h, body)
}

func (d *diagnoser) diagnose(h http.Header, body []byte) Diagnosis {
	var found Diagnosis
	if large := len(body) > d.maxBody/4; large {
		d.partial = true
	} else {
		found = d.explainRequest(h, body)
	}
	if found.Code == "ok" {
		return found
	}
	found.Evidence = append(Evidence(h), found.Evidence...)
	if d.tolerance != math.MaxInt64 {
		found.Evidence = append(found.Evidence, clock(h, d.now())...)
	}
	found.Evidence = append(found.Evidence, "tried with "+d.fingerprints())
	if d.partial {
		found.Evidence = append(found.Evidence, "not all known mistakes were tried, because of the size of the body or the number of keys: headgate verify tries all")
	}
	if body != nil {
		found.Evidence = append(found.Evidence, bodyEvidence(h, body, !d.partial)...)
	}
	return found
}

// fingerprints returns those of the first keys, and the number of the others.
func (d *diagnoser) fingerprints() string {
	const most = 8
	prints := d.Keys()
	word := "keys: "
	if len(prints) == 1 {
		word = "key: "
	}
	if more := len(prints) - most; more > 0 {
		return word + strings.Join(prints[:most], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return word + strings.Join(prints, ", ")
}

func (d *diagnoser) explainRequest(h http.Header, body []byte) Diagnosis {
	u, err := d.Read(h)
	if err != nil {
		return d.unreadable(h, body, err)
	}
	for _, f := range u.families {
		if k, _ := d.match(new(slot), f, body); k != nil { // without a pool it is never busy
			return d.inTimeOrNot(f, k)
		}
	}
	if found, ok := d.explainMistake(u.families, body); ok {
		return found
	}
	if ends, cut := cutOff(h, body); cut {
		return Diagnosis{
			Code: "truncated", Text: "no key matches the signature, and the body is cut off: " + ends,
			Cure: "pass the whole body on: look for a limit of the proxy, or of what has captured the request",
		}
	}
	return Diagnosis{
		Code: "no_match", Text: "no key matches the signature, and no known mistake explains it",
		Cure: "compare the fingerprint of the endpoint's signing secret in Codat's Portal with the keys above; take the body from the wire, before anything parses it",
	}
}

// explainMistake tries the mistakes of headers that can be read.
func (d *diagnoser) explainMistake(all []family, body []byte) (Diagnosis, bool) {
	for _, f := range all {
		if found, ok := d.explain(f, body); ok {
			return found, true
		}
	}
	if len(all) < 2 {
		return Diagnosis{}, false
	}
	return d.mixed(all, body)
}

// inTimeOrNot is the diagnosis of a signature that is right.
func (d *diagnoser) inTimeOrNot(f family, k *key) Diagnosis {
	found := Diagnosis{Code: "ok", ID: f.id, At: f.at.UTC(), Key: k.fingerprint, Text: fmt.Sprintf("the signature is right under key %s", k.fingerprint)}
	switch age := d.now().Sub(f.at); {
	case age > d.tolerance:
		found.Code, found.Text = "too_old", fmt.Sprintf("the signature is right under key %s, and %s older than the arrival", k.fingerprint, age.Round(time.Second))
		found.Cure = "give the time of arrival with --at; if this is it, synchronize the receiver's clock, or look for what kept the request"
	case age < -d.tolerance:
		found.Code, found.Text = "too_new", fmt.Sprintf("the signature is right under key %s, and %s after the arrival", k.fingerprint, f.at.Sub(d.now()).Round(time.Second))
		found.Cure = "synchronize the receiver's clock (NTP)"
	}
	return found
}

// unreadable explains headers that cannot be read. Without a body it tells forms, and not whether the signature is right.
func (d *diagnoser) unreadable(h http.Header, body []byte, err error) Diagnosis {
	present := false
	for _, names := range families {
		id, timestamp, signatures := h.Get(names.id), strings.TrimSpace(h.Get(names.timestamp)), h.Get(names.signature)
		present = present || id != "" || timestamp != "" || signatures != ""
		if id == "" || timestamp == "" || signatures == "" || len(signatures) > maxSignatureBytes {
			continue
		}
		if found, ok := d.otherForm(family{name: names.name, id: id, timestamp: timestamp}, signatures, body); ok {
			return found
		}
	}
	if found, ok := d.renamed(h, body); ok {
		return found
	}
	switch {
	case !present:
		return Diagnosis{
			Code: "missing", Text: "the request has none of the headers webhook-id, webhook-timestamp and webhook-signature, nor of svix-*",
			Cure: "let the proxy pass the headers that begin with webhook- and svix-; Codat sends them with every event",
		}
	case errors.Is(err, ErrMissing):
		return Diagnosis{Code: "missing", Text: err.Error(), Cure: "let the proxy pass all three headers of one family"}
	}
	return Diagnosis{Code: "malformed", Text: err.Error(), Cure: "send a number of seconds as the timestamp, and v1, with the base64 of 32 bytes as the signature"}
}

// otherForm explains signatures that are not written as v1, and standard base64.
func (d *diagnoser) otherForm(f family, signatures string, body []byte) (Diagnosis, bool) {
	const cure = "let the sender write v1, and the standard base64 of the HMAC, and the proxy pass it unchanged"
	joined := strings.ReplaceAll(signatures, "v1, ", "v1,")
	count := 0
	for one := range strings.FieldsSeq(joined) {
		if count++; count > maxSignatures {
			break
		}
		raw, form := otherEncoding(one)
		if raw == nil {
			continue
		}
		if joined != signatures {
			form = "with a space after v1,"
		}
		form = "written " + form + " in place of v1, and standard base64"
		if body == nil {
			return Diagnosis{Code: "encoding", Text: f.name + "-signature is " + form, Cure: cure}, true
		}
		f.v1 = append(f.v1, base64.StdEncoding.EncodeToString(raw))
		if found, ok := d.signs(f, body, "encoding", "the signature is right, and is "+form); ok {
			found.Cure = cure
			return found, true
		}
	}
	return Diagnosis{}, false
}

var signaturePrefix = regexp.MustCompile(`^[A-Za-z0-9]{1,8}[,=:]`)

// otherEncoding decodes a signature that is written in another way, and says in which.
func otherEncoding(s string) (sum []byte, form string) {
	if unquoted := strings.Trim(s, `"'`); unquoted != s {
		s, form = unquoted, "in quotes"
	}
	prefix := signaturePrefix.FindString(s)
	s = strings.TrimPrefix(s, prefix)
	switch prefix {
	case "v1,":
	case "":
		form = "without v1,"
	default:
		form = "behind " + prefix
	}
	for _, as := range []struct {
		form   string
		decode func(string) ([]byte, error)
	}{
		{form, base64.StdEncoding.DecodeString},
		{"in hexadecimal", hex.DecodeString},
		{"in base64url", base64.URLEncoding.DecodeString},
		{"in base64url without padding", base64.RawURLEncoding.DecodeString},
		{"in base64 without padding", base64.RawStdEncoding.DecodeString},
	} {
		if b, err := as.decode(s); err == nil && len(b) == sumSize {
			return b, cmp.Or(as.form, "in a form that is right alone")
		}
	}
	return nil, ""
}

// renames are what proxies and frameworks put before the name of a header.
var renames = []string{"x-", "http-", "x-http-", "x-original-", "x-forwarded-"}

// renamed explains signature headers that are there under other names, such as X-Webhook-Id or webhook_id.
func (d *diagnoser) renamed(h http.Header, body []byte) (Diagnosis, bool) {
	const cure = "let the proxy pass webhook-id, webhook-timestamp and webhook-signature under their own names"
	for _, names := range families {
		for _, prefix := range append([]string{""}, renames...) {
			for _, dash := range []string{"-", "_"} {
				values, under := make([][]string, 0, 3), make([]string, 0, 3)
				for _, name := range []string{names.id, names.timestamp, names.signature} {
					name = strings.ReplaceAll(prefix+strings.ToLower(name), "-", dash)
					under, values = append(under, name), append(values, h.Values(name))
				}
				f, err := readFamily(values[0], values[1], values[2])
				if err != nil {
					continue
				}
				text := "the signature headers are there under other names: " + strings.Join(under, ", ")
				if body == nil {
					return Diagnosis{Code: "family", Text: text, Cure: cure}, true
				}
				if found, ok := d.signs(f, body, "family", text); ok {
					found.Cure = cure
					return found, true
				}
			}
		}
	}
	return Diagnosis{}, false
}

// mixed explains two families of headers whose values belong together.
func (d *diagnoser) mixed(all []family, body []byte) (Diagnosis, bool) {
	for _, signed := range all {
		for _, id := range all {
			for _, timestamp := range all {
				f := family{name: signed.name, id: id.id, timestamp: timestamp.timestamp, v1: signed.v1}
				text := fmt.Sprintf("the signature of %s-signature covers %s-id and %s-timestamp", signed.name, id.name, timestamp.name)
				if found, ok := d.signs(f, body, "family", text); ok {
					found.Cure = "let the proxy pass each header under its own name"
					return found, true
				}
			}
		}
	}
	return Diagnosis{}, false
}

// explain tries the mistakes one after the other: bodies, then keys, then signed texts.
func (d *diagnoser) explain(f family, body []byte) (Diagnosis, bool) {
	for text, b := range bodies(body, d.maxBody) {
		if d.partial {
			return Diagnosis{}, false
		}
		if found, ok := d.signs(f, b, "body", "the signature is of another body: "+text); ok {
			found.Cure = "pass the bytes on as they came: verify before anything parses, decodes or rewrites the body"
			return found, true
		}
	}
	for _, derived := range keyMistakes {
		m := mistake{"key", "the sender has signed with " + derived.text, derived.derive}
		if found, ok := d.matches(m, f, signedText(f.id, f.timestamp, body)); ok {
			found.Cure = "let the sender decode the base64 after whsec_ and sign with these bytes"
			return found, true
		}
	}
	for _, t := range []struct {
		text   string
		signed []byte
	}{
		{"the body alone", body},
		{"the timestamp and the body", signedText("", f.timestamp, body)[1:]},
		{"the id and the body", []byte(f.id + "." + string(body))},
		{"timestamp, id and body", signedText(f.timestamp, f.id, body)},
		{"id, timestamp and body without dots", []byte(f.id + f.timestamp + string(body))},
		{"an empty body", signedText(f.id, f.timestamp, nil)},
	} {
		if found, ok := d.matches(mistake{"signed_text", "the sender has signed " + t.text, same}, f, t.signed); ok {
			found.Cure = "let the sender sign <id>.<timestamp>.<body>"
			return found, true
		}
	}
	return Diagnosis{}, false
}

func signedText(id, timestamp string, body []byte) []byte {
	return slices.Concat([]byte(id), []byte{'.'}, []byte(timestamp), []byte{'.'}, body)
}

func same(key []byte) []byte { return key }

// keyMistakes are keys that senders use in place of the bytes behind whsec_.
var keyMistakes = []struct {
	text   string
	derive func([]byte) []byte
}{
	{"the text of the secret, whsec_ included, in place of what it decodes to", func(b []byte) []byte { return []byte(keyPrefix + base64.StdEncoding.EncodeToString(b)) }},
	{"the text after whsec_, in place of what it decodes to", func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }},
	{"the secret and a line end", func(b []byte) []byte { return append(slices.Clone(b), '\n') }},
	{"the text of the secret and a line end", func(b []byte) []byte { return []byte(keyPrefix + base64.StdEncoding.EncodeToString(b) + "\n") }},
	{"the hexadecimal digits of the secret", func(b []byte) []byte { return []byte(hex.EncodeToString(b)) }},
}

// A mistake is what explains a signature when matches says so. derive makes a sender's key of the right one.
type mistake struct {
	code, text string
	derive     func(key []byte) []byte
}

// signs reports whether a signature of f is that of a body.
func (d *diagnoser) signs(f family, body []byte, code, text string) (Diagnosis, bool) {
	return d.matches(mistake{code, text, same}, f, signedText(f.id, f.timestamp, body))
}

// matches reports whether a signature of f is that of a text under a key, or under one derived from it. It compares in constant
// time: the text is not always the one that was received, and its signature would be accepted with it.
func (d *diagnoser) matches(m mistake, f family, signed []byte) (Diagnosis, bool) {
	const own = 256 // bytes that an HMAC hashes beside the text
	for _, k := range *d.keys.Load() {
		if d.hashed < len(signed)+own {
			d.partial = true
			return Diagnosis{}, false
		}
		d.hashed -= len(signed) + own
		sum := []byte(base64.StdEncoding.EncodeToString(k.mac(m.derive, signed)))
		for _, one := range f.v1 {
			if hmac.Equal([]byte(one), sum) {
				return Diagnosis{Code: m.code, Text: m.text + fmt.Sprintf(" (key %s)", k.fingerprint), ID: f.id, Key: k.fingerprint}, true
			}
		}
	}
	return Diagnosis{}, false
}
