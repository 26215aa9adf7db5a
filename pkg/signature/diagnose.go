package signature

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// A Diagnosis says whether a captured request is proven, or what is wrong with it.
type Diagnosis struct {
	// Code is ok, or the mistake: missing, malformed, too_old, too_new, body, key, signed_text, encoding, family, or no_match when
	// none of the mistakes that Diagnose knows explains the signature.
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

// maxUnpacked bounds what a compressed body is unpacked to.
const maxUnpacked = 16 << 20

// Diagnose verifies a captured request under the keys and says which of the known mistakes explains a signature that does
// not match: a body that was changed on the way, another form of the key or of the signed text, headers in another form, a
// clock. now is when the request arrived. It runs hundreds of HMACs: it is for a person who has a question, and not for
// requests as they come.
func Diagnose(h http.Header, body []byte, now time.Time, tolerance time.Duration, keys ...Key) Diagnosis {
	d := diagnose(h, body, now, tolerance, keys)
	if d.Code != "ok" {
		d.Evidence = append(d.Evidence, evidence(h, body, keys)...)
	}
	return d
}

func diagnose(h http.Header, body []byte, now time.Time, tolerance time.Duration, keys []Key) Diagnosis {
	v := NewVerifier(tolerance, func() time.Time { return now }, keys...)
	u, err := v.Read(h)
	if err != nil {
		return unreadable(h, body, err, keys)
	}
	always := NewVerifier(1<<62, func() time.Time { return now }, keys...)
	if proven, err := always.Verify(u, body); err == nil {
		d := Diagnosis{Code: "ok", ID: proven.ID, At: proven.At.UTC(), Key: proven.Key, Text: fmt.Sprintf("the signature is right under key %s", proven.Key)}
		switch age := now.Sub(proven.At); {
		case age > tolerance:
			d.Code, d.Text = "too_old", fmt.Sprintf("the signature is right under key %s, and %s older than the arrival", proven.Key, age.Round(time.Second))
			d.Cure = "give the time of arrival with --at; if this is it, synchronize the receiver's clock, or look for what kept the request"
		case -age > tolerance:
			d.Code, d.Text = "too_new", fmt.Sprintf("the signature is right under key %s, and %s after the arrival", proven.Key, (-age).Round(time.Second))
			d.Cure = "synchronize the receiver's clock (NTP)"
		}
		return d
	}
	for _, f := range u.families {
		if d, ok := explain(f, body, keys); ok {
			return d
		}
	}
	if len(u.families) == 2 {
		if d, ok := mixed(u.families, body, keys); ok {
			return d
		}
	}
	return Diagnosis{
		Code: "no_match", Text: "no key matches the signature, and no known mistake explains it",
		Cure: "compare the fingerprint of the endpoint's signing secret in Codat's Portal with the keys above; take the body from the wire, before anything parses it",
	}
}

// unreadable explains headers that cannot be read.
func unreadable(h http.Header, body []byte, err error, keys []Key) Diagnosis {
	var present []string
	for _, names := range families {
		for _, name := range []string{names.id, names.timestamp, names.signature} {
			if len(h[name]) > 0 {
				present = append(present, strings.ToLower(name))
			}
		}
		id, timestamp, signatures := h.Get(names.id), strings.TrimSpace(h.Get(names.timestamp)), h.Get(names.signature)
		if id == "" || timestamp == "" || signatures == "" {
			continue
		}
		f := family{name: names.name, id: id, timestamp: timestamp}
		for one := range strings.FieldsSeq(signatures) {
			_, sum, found := strings.Cut(one, ",")
			if !found {
				sum = one
			}
			if raw, form := otherEncoding(sum); raw != nil {
				f.v1 = append(f.v1, base64.StdEncoding.EncodeToString(raw))
				if d, ok := explainMatch(f, body, keys, "encoding", "the signature is right, and is written "+form+" in place of v1, and standard base64"); ok {
					d.Cure = "let the sender write v1, and the standard base64 of the HMAC"
					return d
				}
			}
		}
	}
	if len(present) == 0 {
		return Diagnosis{
			Code: "missing", Text: "the request has none of the headers webhook-id, webhook-timestamp and webhook-signature, nor of svix-*",
			Cure: "let the proxy pass the headers that begin with webhook- and svix-; Codat sends them with every event",
		}
	}
	code, cure := "malformed", "send a number of seconds as the timestamp, and v1, with the base64 of 32 bytes as the signature"
	if strings.Contains(err.Error(), ErrMissing.Error()) {
		code, cure = "missing", "let the proxy pass all three headers of one family"
	}
	return Diagnosis{Code: code, Text: err.Error(), Cure: cure, Evidence: []string{"of the signature headers there are " + strings.Join(present, ", ")}}
}

// otherEncoding decodes a sum that is written in another way than standard base64.
func otherEncoding(s string) (sum []byte, form string) {
	for _, as := range []struct {
		form   string
		decode func(string) ([]byte, error)
	}{
		{"without v1,", base64.StdEncoding.DecodeString},
		{"in hexadecimal", hex.DecodeString},
		{"in base64url", base64.URLEncoding.DecodeString},
		{"in base64url without padding", base64.RawURLEncoding.DecodeString},
		{"in base64 without padding", base64.RawStdEncoding.DecodeString},
	} {
		if b, err := as.decode(s); err == nil && len(b) == sumSize {
			return b, as.form
		}
	}
	return nil, ""
}

// mixed explains two families of headers whose values belong together.
func mixed(all []family, body []byte, keys []Key) (Diagnosis, bool) {
	for _, signed := range all {
		for _, id := range all {
			for _, timestamp := range all {
				f := family{name: signed.name, id: id.id, timestamp: timestamp.timestamp, v1: signed.v1}
				text := fmt.Sprintf("the signature of %s-signature covers %s-id and %s-timestamp", signed.name, id.name, timestamp.name)
				if d, ok := explainMatch(f, body, keys, "family", text); ok {
					d.Cure = "let the proxy pass each header under its own name"
					return d, true
				}
			}
		}
	}
	return Diagnosis{}, false
}

// explain tries the mistakes one after the other: bodies, then keys, then signed texts.
func explain(f family, body []byte, keys []Key) (Diagnosis, bool) {
	for _, c := range changes(body) {
		if bytes.Equal(c.body, body) {
			continue
		}
		if d, ok := explainMatch(f, c.body, keys, "body", "the signature is of another body: "+c.text); ok {
			d.Cure = "pass the bytes on as they came: verify before anything parses, decodes or rewrites the body"
			return d, true
		}
	}
	for _, derived := range keyMistakes {
		m := mistake{"key", "the sender has signed with " + derived.text, derived.derive}
		if d, ok := m.matches(f, signedText(f.id, f.timestamp, body), keys); ok {
			d.Cure = "let the sender decode the base64 after whsec_ and sign with these bytes"
			return d, true
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
		if d, ok := (mistake{"signed_text", "the sender has signed " + t.text, same}).matches(f, t.signed, keys); ok {
			d.Cure = "let the sender sign <id>.<timestamp>.<body>"
			return d, true
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

func explainMatch(f family, body []byte, keys []Key, code, text string) (Diagnosis, bool) {
	return mistake{code, text, same}.matches(f, signedText(f.id, f.timestamp, body), keys)
}

// A mistake is what explains a signature when matches says so. derive makes a sender's key of the right one.
type mistake struct {
	code, text string
	derive     func(key []byte) []byte
}

// matches reports whether a signature of f is that of a text under a key, or under one derived from it.
func (m mistake) matches(f family, signed []byte, keys []Key) (Diagnosis, bool) {
	for _, k := range keys {
		if k.key == nil {
			continue
		}
		if slices.Contains(f.v1, base64.StdEncoding.EncodeToString(k.mac(m.derive, signed))) {
			return Diagnosis{Code: m.code, Text: m.text + fmt.Sprintf(" (key %s)", k.fingerprint), ID: f.id, Key: k.fingerprint}, true
		}
	}
	return Diagnosis{}, false
}

// A change is a body from which a proxy, a framework or a capture can have made the given one.
type change struct {
	text string
	body []byte
}

// changes returns the bodies that the given one may have been.
func changes(body []byte) []change {
	all := []change{
		{"one without the line end at its end", bytes.TrimRight(body, "\r\n")},
		{"one without the white space around it", bytes.TrimSpace(body)},
		{"one with a line end at its end", append(slices.Clone(body), '\n')},
		{`one with \r\n at its end`, append(slices.Clone(body), "\r\n"...)},
		{`one whose lines end with \n`, bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n"))},
		{`one whose lines end with \r\n`, bytes.ReplaceAll(bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))},
		{"one without a byte order mark", bytes.TrimPrefix(body, []byte("\uFEFF"))},
		{"one with a byte order mark", append([]byte("\uFEFF"), body...)},
		{"one without the backslashes before slashes", bytes.ReplaceAll(body, []byte(`\/`), []byte("/"))},
		{"one with backslashes before slashes", bytes.ReplaceAll(body, []byte("/"), []byte(`\/`))},
		{"one with characters in place of the \\u escapes of <, > and &", unescape(body, true)},
		{"one with characters in place of \\u escapes", unescape(body, false)},
		{"one with \\u escapes (lower case) in place of other characters", escape(body, "\\u%04x")},
		{"one with \\u escapes (upper case) in place of other characters", escape(body, "\\u%04X")},
	}
	if z, err := gzip.NewReader(bytes.NewReader(body)); err == nil {
		if plain, err := io.ReadAll(io.LimitReader(z, maxUnpacked)); err == nil {
			all = append(all, change{"what it is compressed from (gzip)", plain})
		}
	}
	if plain, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(body))); err == nil {
		all = append(all, change{"what it is the base64 of", plain})
	}
	if latin := fromUTF8OfUTF8(body); latin != nil {
		all = append(all, change{"one that was not encoded as UTF-8 a second time", latin})
	}
	var text string
	if json.Unmarshal(body, &text) == nil {
		all = append(all, change{"what it is the JSON string of", []byte(text)})
	}
	if !json.Valid(body) {
		return all
	}
	var compact, two, four, tab bytes.Buffer
	_ = json.Compact(&compact, body)
	_ = json.Indent(&two, compact.Bytes(), "", "  ")
	_ = json.Indent(&four, compact.Bytes(), "", "    ")
	_ = json.Indent(&tab, compact.Bytes(), "", "\t")
	for _, c := range []change{
		{"the same JSON without white space", compact.Bytes()},
		{"the same JSON indented with two spaces", two.Bytes()},
		{"the same JSON indented with four spaces", four.Bytes()},
		{"the same JSON indented with tabs", tab.Bytes()},
		{"the same JSON with a space after each comma and colon, as Python writes it", spaced(compact.Bytes())},
	} {
		crlf := bytes.ReplaceAll(c.body, []byte("\n"), []byte("\r\n"))
		all = append(all, c, change{c.text + `, its lines with \r\n`, crlf}, change{c.text + " and with a line end at its end", append(slices.Clone(c.body), '\n')},
			change{c.text + ", with characters in place of \\u escapes", unescape(c.body, false)},
			change{c.text + ", with \\u escapes in place of other characters", escape(c.body, "\\u%04x")})
	}
	return all
}

// spaced returns compact JSON with a space after each comma and colon outside of strings.
func spaced(compact []byte) []byte {
	out := make([]byte, 0, len(compact)+len(compact)/8)
	inString, escaped := false, false
	for _, c := range compact {
		out = append(out, c)
		switch {
		case escaped:
			escaped = false
		case inString && c == '\\':
			escaped = true
		case c == '"':
			inString = !inString
		case !inString && (c == ',' || c == ':'):
			out = append(out, ' ')
		}
	}
	return out
}

var unicodeEscape = regexp.MustCompile(`\\u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|[0-9a-fA-F]{4})`)

// unescape replaces the escapes of printable characters, or only those of <, > and &.
func unescape(body []byte, html bool) []byte {
	return unicodeEscape.ReplaceAllFunc(body, func(e []byte) []byte {
		n, _ := strconv.ParseUint(string(e[2:6]), 16, 32)
		r := rune(n)
		if len(e) > 6 {
			low, _ := strconv.ParseUint(string(e[8:]), 16, 32)
			r = utf16.DecodeRune(r, rune(low))
		}
		if html && !strings.ContainsRune("<>&", r) || r < ' ' || r == '"' || r == '\\' || utf16.IsSurrogate(r) {
			return e
		}
		return []byte(string(r))
	})
}

// escape replaces the characters that are not ASCII by escapes.
func escape(body []byte, format string) []byte {
	if !utf8.Valid(body) {
		return body
	}
	var out bytes.Buffer
	for _, r := range string(body) {
		switch {
		case r < utf8.RuneSelf:
			out.WriteByte(byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, format+format, high, low)
		default:
			fmt.Fprintf(&out, format, r)
		}
	}
	return out.Bytes()
}

// fromUTF8OfUTF8 undoes that UTF-8 was read as Latin-1 and written as UTF-8 again; it returns nil for other bodies.
func fromUTF8OfUTF8(body []byte) []byte {
	if !utf8.Valid(body) {
		return nil
	}
	out := make([]byte, 0, len(body))
	for _, r := range string(body) {
		if r > 0xff {
			return nil
		}
		out = append(out, byte(r))
	}
	return out
}

// evidence returns what is known of a request that is not proven.
func evidence(h http.Header, body []byte, keys []Key) (all []string) {
	var prints []string
	for _, k := range keys {
		prints = append(prints, k.Fingerprint())
	}
	all = append(all, fmt.Sprintf("tried with %s: %s", map[bool]string{true: "key", false: "keys"}[len(keys) == 1], strings.Join(prints, ", ")))
	form := "no JSON"
	var compact bytes.Buffer
	if json.Compact(&compact, body) == nil {
		form = map[bool]string{true: "JSON without white space", false: "JSON with white space"}[compact.Len() == len(body)]
	}
	all = append(all, fmt.Sprintf("the body has %d bytes: %s", len(body), form))
	if n, err := strconv.Atoi(h.Get("Content-Length")); err == nil && n != len(body) {
		all = append(all, fmt.Sprintf("Content-Length is %d: the body is not the one that was sent, or is cut off", n))
	}
	if e := h.Get("Content-Encoding"); e != "" {
		all = append(all, "Content-Encoding is "+strconv.Quote(e))
	}
	if bytes.Contains(body, []byte("\uFFFD")) || !utf8.Valid(body) {
		all = append(all, "the body has bytes that are no UTF-8, or replacement characters where they were")
	}
	return all
}
