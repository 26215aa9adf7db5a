package signature

import (
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestDiagnose_NamesTheMistake(t *testing.T) {
	const secret = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
	key, err := ParseKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ParseKey("whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI=")
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	now := time.Unix(1_800_000_000, 0)
	const id = "msg_1"
	body := []byte(`{"eventType":"company.created","name":"Bäcker & <Sohn> 😀","url":"https://x/y","list":[1,2.50]}`)
	timestamp := fmt.Sprint(now.Unix())
	mac := func(k []byte, parts ...string) string {
		h := hmac.New(sha256.New, k)
		h.Write([]byte(strings.Join(parts, "")))
		return base64.StdEncoding.EncodeToString(h.Sum(nil))
	}
	right := key.Sign(id, now, body)
	sum := strings.TrimPrefix(right, "v1,")
	decoded, _ := base64.StdEncoding.DecodeString(sum)
	headers := func(id, timestamp, signature string) http.Header {
		return http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {signature}}
	}
	good := headers(id, timestamp, right)
	var urlID string // of a signature that base64url writes in another way
	var urlSum []byte
	for n := 0; !strings.ContainsAny(base64.URLEncoding.EncodeToString(urlSum), "-_"); n++ {
		urlID = fmt.Sprintf("msg_%d", n)
		urlSum, _ = base64.StdEncoding.DecodeString(strings.TrimPrefix(key.Sign(urlID, now, body), "v1,"))
	}
	indented := func(indent string) []byte {
		var b bytes.Buffer
		if err := json.Indent(&b, body, "", indent); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	zipped := func() []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(body)
		_ = z.Close()
		return b.Bytes()
	}
	html := bytes.NewBuffer(nil)
	json.HTMLEscape(html, body)
	quoted, _ := json.Marshal(string(body))
	twice := func() (out []byte) {
		for _, b := range body {
			out = append(out, string(rune(b))...)
		}
		return out
	}

	for _, tt := range []struct {
		name      string
		h         http.Header
		body      []byte
		code, say string
	}{
		{"nothing wrong", good, body, "ok", "right under key " + key.Fingerprint()},
		{"a line end added", good, append(bytes.Clone(body), '\n'), "body", "without the line end"},
		{"indented", good, indented("  "), "body", "without white space"},
		{"indented, with a line end", good, append(indented("\t"), '\n'), "body", "without white space"},
		{"as Python writes it", good, spaced(body), "body", "without white space"},
		{"as Python writes it, ASCII only", good, escape(spaced(body), "\\u%04x"), "body", "characters in place of \\u escapes"},
		{"ASCII only", good, escape(body, "\\u%04X"), "body", "characters in place of \\u escapes"},
		{"as Go writes it", good, html.Bytes(), "body", "escapes of <, > and &"},
		{"as PHP writes it", good, bytes.ReplaceAll(body, []byte("/"), []byte(`\/`)), "body", "backslashes before slashes"},
		{"a byte order mark added", good, append([]byte("\uFEFF"), body...), "body", "byte order mark"},
		{"compressed", good, zipped(), "body", "gzip"},
		{"in base64", good, []byte(base64.StdEncoding.EncodeToString(body)), "body", "base64"},
		{"as a JSON string", good, quoted, "body", "JSON string"},
		{"UTF-8 twice", good, twice(), "body", "UTF-8 a second time"},
		{"cut off", withLength(good, len(body)), body[:40], "truncated", "it has 40 bytes of the"},
		{"cut off, as its Content-Length", withLength(good, 40), body[:40], "truncated", "it is JSON that ends after 40 bytes"},
		{"empty", withLength(good, len(body)), nil, "truncated", "the body has 0 bytes"},
		{"empty, and nothing says more", good, nil, "no_match", "the body has 0 bytes"},
		{"another key", headers(id, timestamp, "v1,"+mac([]byte("unknown"), id, ".", timestamp, ".", string(body))), body, "no_match", "tried with keys: "},
		{"the second of two keys", headers(id, timestamp, other.Sign(id, now, body)), body, "ok", "right under key " + other.Fingerprint()},
		{"two signatures of unknown keys", headers(id, timestamp, key.Sign("other", now, body)+" "+other.Sign("other", now, body)+" v1a,x"), body, "no_match", "signatures in webhook-signature: 2 of v1, 1 of v1a"},
		{"with clocks that agree", headers("other", timestamp, right), body, "no_match", "signed 0s before the arrival"},
		{"white space at the beginning", good, append([]byte(" \t"), body...), "body", "white space around it"},
		{"a name changed", good, bytes.Replace(body, []byte("Sohn"), []byte("Sohne"), 1), "no_match", "no known mistake"},
		{"old", headers(id, fmt.Sprint(now.Add(-time.Hour).Unix()), key.Sign(id, now.Add(-time.Hour), body)), body, "too_old", "1h0m0s older"},
		{"new", headers(id, fmt.Sprint(now.Add(time.Hour).Unix()), key.Sign(id, now.Add(time.Hour), body)), body, "too_new", "1h0m0s after"},
		{"no header", http.Header{}, body, "missing", "none of the headers"},
		{"no signature", http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}}, body, "missing", "signature headers: webhook-id, webhook-timestamp"},
		{"milliseconds", headers(id, timestamp+"000", right), body, "malformed", "not a plain number of seconds"},
		{"hexadecimal", headers(id, timestamp, "v1,"+hex.EncodeToString(decoded)), body, "encoding", "in hexadecimal"},
		{"base64url", headers(id, timestamp, "v1,"+base64.RawURLEncoding.EncodeToString(decoded)), body, "encoding", "base64"},
		{"base64url, padded", headers(urlID, timestamp, "v1,"+base64.URLEncoding.EncodeToString(urlSum)), body, "encoding", "in base64url in place of"},
		{"another prefix", headers(id, timestamp, "sha256="+hex.EncodeToString(decoded)), body, "encoding", "in hexadecimal"},
		{"v1 and an equals sign", headers(id, timestamp, "v1="+sum), body, "encoding", "behind v1= in place of"},
		{"in quotes", headers(id, timestamp, `"`+right+`"`), body, "encoding", "in quotes"},
		{"a space after the comma", headers(id, timestamp, "v1, "+sum), body, "encoding", "with a space after v1,"},
		{"other names", http.Header{"X-Webhook-Id": {id}, "X-Webhook-Timestamp": {timestamp}, "X-Webhook-Signature": {right}}, body, "family", "x-webhook-id, x-webhook-timestamp"},
		{"underscores", http.Header{"Svix_id": {id}, "Svix_timestamp": {timestamp}, "Svix_signature": {right}}, body, "family", "svix_id"},
		{"no version", headers(id, timestamp, sum), body, "encoding", "without v1,"},
		{"asymmetric", headers(id, timestamp, "v1a,"+base64.StdEncoding.EncodeToString(make([]byte, 64))), body, "malformed", "ed25519"},
		{"the secret as text", headers(id, timestamp, "v1,"+mac([]byte(secret), id, ".", timestamp, ".", string(body))), body, "key", "whsec_ included"},
		{"the text after whsec_", headers(id, timestamp, "v1,"+mac([]byte(strings.TrimPrefix(secret, "whsec_")), id, ".", timestamp, ".", string(body))), body, "key", "the text after whsec_"},
		{"the body alone", headers(id, timestamp, "v1,"+mac(raw, string(body))), body, "signed_text", "the body alone"},
		{"timestamp and body", headers(id, timestamp, "v1,"+mac(raw, timestamp, ".", string(body))), body, "signed_text", "the timestamp and the body"},
		{"timestamp first", headers(id, timestamp, "v1,"+mac(raw, timestamp, ".", id, ".", string(body))), body, "signed_text", "timestamp, id and body"},
		{"two families mixed", http.Header{
			"Webhook-Id": {"other"}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {right},
			"Svix-Id": {id}, "Svix-Timestamp": {timestamp}, "Svix-Signature": {"v1," + mac([]byte("unknown"), "")},
		}, body, "family", "webhook-signature covers svix-id"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Diagnose(tt.h, tt.body, now, 5*time.Minute, key, other)
			said := strings.Join(append([]string{d.Text}, d.Evidence...), "\n")
			if d.Code != tt.code || !strings.Contains(said, tt.say) || d.Code != "ok" && d.Cure == "" {
				t.Errorf("%+v; want %s, %q and a cure", d, tt.code, tt.say)
			}
			if all := fmt.Sprintf("%+v", d); strings.Contains(all, sum) || strings.Contains(all, "Sohn") || strings.Contains(all, string(raw)) {
				t.Errorf("it says the signature, the key or the body: %s", all)
			}
		})
	}
}

// A request that nobody signed makes a receiver's diagnosis neither hash nor hold more than its bounds.
func TestVerifierDiagnose_IsBounded(t *testing.T) {
	var keys []Key
	for n := range 50 {
		k, err := ParseKey("whsec_" + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "the key of %-30d", n)))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	now := time.Unix(1_800_000_000, 0)
	v := NewVerifier(time.Minute, func() time.Time { return now }, keys...)
	unknown, err := ParseKey("whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI=")
	if err != nil {
		t.Fatal(err)
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 10<<20))
	_ = z.Close()
	const deep = 8000
	for name, body := range map[string][]byte{
		"deep":     []byte(strings.Repeat("[", deep) + strings.Repeat("]", deep)),
		"long":     []byte(`{"a":"` + strings.Repeat("ä", 8000) + `"}`),
		"unpacked": bomb.Bytes(),
	} {
		for text, b := range bodies(body, 4*smallBody) {
			if len(b) > 4*smallBody {
				t.Errorf("%s: %d bytes are made for %q", name, len(b), text)
			}
		}
		h := http.Header{"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {fmt.Sprint(now.Unix())}, "Webhook-Signature": {unknown.Sign("msg_1", now, body)}}
		d := diagnoser{v, 4 * smallBody, quickHashed, false}
		if found := d.diagnose(h, body); found.Code != "no_match" || d.hashed < 0 {
			t.Errorf("%s: %+v with %d bytes left; want no_match within the bound", name, found, d.hashed)
		}
	}
	h := http.Header{"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {fmt.Sprint(now.Unix())}, "Webhook-Signature": {unknown.Sign("msg_1", now, nil)}}
	for name, tt := range map[string]struct {
		body []byte
		code string
		says string
	}{
		"small":     {[]byte(`{"a":1}`), "no_match", "and 42 more"},
		"partial":   {[]byte(`{"a":"` + strings.Repeat("<", 16000) + `"}`), "no_match", "not all known mistakes were tried"},
		"too large": {make([]byte, smallBody+1), "", "not all known mistakes were tried"},
	} {
		found := v.Diagnose(h, tt.body)
		if said := strings.Join(found.Evidence, "\n"); found.Code != tt.code || !strings.Contains(said, tt.says) {
			t.Errorf("%s: %+v; want %s, and %q", name, found, tt.code, tt.says)
		}
	}
	for name, tt := range map[string]struct{ signature, code, says string }{
		"hexadecimal": {"v1," + strings.Repeat("0a", sumSize), "encoding", "webhook-signature is written in hexadecimal"},
		"asymmetric":  {"v1a,AAAA", "malformed", "ed25519"},
	} {
		h.Set("Webhook-Signature", tt.signature)
		if found := v.Diagnose(h, nil); found.Code != tt.code || !strings.Contains(found.Text, tt.says) || strings.Contains(strings.Join(found.Evidence, "\n"), "the body") {
			t.Errorf("%s: %+v; want %s, and %q, and nothing of a body", name, found, tt.code, tt.says)
		}
	}
}

// What another client chose is neither said nor written to a terminal as it is.
func TestEvidence_SaysNoValue(t *testing.T) {
	const evil = "\x1b[2J evil"
	h := http.Header{"Webhook-Id": {evil, evil}, "Webhook-Timestamp": {evil}, "Webhook-Signature": {evil + ",AAAA v1,x"}, "Content-Encoding": {strings.Repeat("\x1b", 100)}}
	said := strings.Join(Evidence(h), "\n")
	if strings.Contains(said, "evil") || strings.Contains(said, "\x1b") || !strings.Contains(said, "webhook-id in 2 lines, webhook-timestamp") || !strings.Contains(said, "1 of v1, 2 of another form") {
		t.Errorf("it says\n%s", said)
	}
	if got := Evidence(http.Header{}); len(got) != 1 || got[0] != "signature headers: none" {
		t.Errorf("of no header it says %q", got)
	}
}

func BenchmarkVerifierDiagnose(b *testing.B) {
	var keys []Key
	for n := range 50 {
		k, err := ParseKey("whsec_" + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "the key of %-30d", n)))
		if err != nil {
			b.Fatal(err)
		}
		keys = append(keys, k)
	}
	v := NewVerifier(time.Minute, nil, keys...)
	h := http.Header{"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {fmt.Sprint(time.Now().Unix())}, "Webhook-Signature": {keys[0].Sign("msg_2", time.Now(), nil)}}
	for name, body := range map[string][]byte{
		"600":   []byte(`{"a":"` + strings.Repeat("<", 600) + `"}`),
		"16KiB": []byte(`{"a":"` + strings.Repeat("\\u00e4/", 2000) + `"}`),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				v.Diagnose(h, body)
			}
		})
	}
}

func withLength(h http.Header, n int) http.Header {
	h = h.Clone()
	h.Set("Content-Length", fmt.Sprint(n))
	return h
}

func FuzzDiagnose(f *testing.F) {
	key, err := ParseKey("whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("msg_1", "1800000000", "v1,x", []byte(`{"a":"\u00e4"}`))
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte) {
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {signature}}
		if d := Diagnose(h, body, time.Unix(1_800_000_000, 0), time.Minute, key); d.Code == "ok" {
			t.Errorf("a request that nobody signed is %+v", d)
		}
	})
}
