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
		{"cut off", withLength(good, len(body)), body[:40], "no_match", "Content-Length is"},
		{"empty", withLength(good, len(body)), nil, "no_match", "the body has 0 bytes"},
		{"another key", headers(id, timestamp, "v1,"+mac([]byte("unknown"), id, ".", timestamp, ".", string(body))), body, "no_match", "tried with keys: " + key.Fingerprint() + ", " + other.Fingerprint()},
		{"a name changed", good, bytes.Replace(body, []byte("Sohn"), []byte("Sohne"), 1), "no_match", "no known mistake"},
		{"old", headers(id, fmt.Sprint(now.Add(-time.Hour).Unix()), key.Sign(id, now.Add(-time.Hour), body)), body, "too_old", "1h0m0s older"},
		{"new", headers(id, fmt.Sprint(now.Add(time.Hour).Unix()), key.Sign(id, now.Add(time.Hour), body)), body, "too_new", "1h0m0s after"},
		{"no header", http.Header{}, body, "missing", "none of the headers"},
		{"no signature", http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}}, body, "missing", "there are webhook-id, webhook-timestamp"},
		{"milliseconds", headers(id, timestamp+"000", right), body, "malformed", "not a plain number of seconds"},
		{"hexadecimal", headers(id, timestamp, "v1,"+hex.EncodeToString(decoded)), body, "encoding", "in hexadecimal"},
		{"base64url", headers(id, timestamp, "v1,"+base64.RawURLEncoding.EncodeToString(decoded)), body, "encoding", "base64"},
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
