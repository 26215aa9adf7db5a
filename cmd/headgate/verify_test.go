package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/signature"
)

func TestVerify_ReadsEveryFormOfACapture(t *testing.T) {
	t.Parallel()
	const secret = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
	key, err := signature.ParseKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-3 * time.Hour).Truncate(time.Second)
	body := "{\"eventType\":\"company.created\",\n\n\"name\":\"secret name\"}"
	headers := fmt.Sprintf("webhook-id: msg_1\r\nWebhook-Timestamp: %d\r\nwebhook-signature: %s\r\n", at.Unix(), key.Sign("msg_1", at, []byte(body)))
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	keyFile := file("key", secret)
	bodyFile := file("body", body)
	var har []string
	for line := range strings.Lines(headers) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		har = append(har, fmt.Sprintf(`{"name":%q,"value":%q}`, name, value))
	}
	entry := `{"log":{"entries":[{"request":{"headers":[]}},{"request":{"headers":[` + strings.Join(har, ",") + `],"postData":{"text":%q,"encoding":%q}}}]}}`
	var curl strings.Builder
	curl.WriteString("* Connected\n> POST / HTTP/1.1\n")
	for line := range strings.Lines(headers) {
		curl.WriteString("> " + line)
	}
	curl.WriteString("< HTTP/1.1 401 Unauthorized\n")

	for _, tt := range []struct {
		name string
		args []string
	}{
		{"a raw request", []string{file("raw", "POST /webhooks/codat HTTP/1.1\r\n"+headers+"\r\n"+body)}},
		{"with line ends of Unix", []string{file("lf", strings.ReplaceAll(headers, "\r\n", "\n")+"\n"+body)}},
		{"headers and body", []string{"--headers", file("headers", headers), "--body", bodyFile}},
		{"curl -v and body", []string{file("curl", curl.String()), "--body", bodyFile}},
		{"a HAR file", []string{file("har", fmt.Sprintf(entry, body, ""))}},
		{"a HAR file in base64", []string{file("har64", fmt.Sprintf(entry, base64.StdEncoding.EncodeToString([]byte(body)), "base64"))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"verify", "--secret-file", keyFile}, tt.args...)
			contains(t, headgate(t, 0, args...).out.String(), "verdict         ok", "msg_1", key.Fingerprint())
		})
	}

	raw := []string{"verify", "--secret-file", keyFile, filepath.Join(dir, "raw"), "--at"}
	contains(t, headgate(t, 1, append(raw, at.Add(3*time.Hour).Format(time.RFC3339))...).out.String(), "too_old", "3h0m0s older")
	contains(t, headgate(t, 0, append(raw, at.Add(time.Minute).Format(time.RFC3339))...).out.String(), "verdict         ok")

	out := headgate(t, 1, "verify", "--secret-file", keyFile, "--headers", file("headers", headers), "--body", file("parsed", strings.ReplaceAll(body, "\n", "")), "--json")
	contains(t, out.out.String(), `"code":"no_match"`, "JSON without white space")
	if all := out.out.String() + out.err.String(); strings.Contains(all, "secret name") || strings.Contains(all, "whsec_c2") {
		t.Errorf("it prints the body or the key:\n%s", all)
	}
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{file("nothing", "webhook-id: msg_1")}, "no empty line"},
		{[]string{file("other", "{}")}, "no request in the HAR file"},
		{[]string{filepath.Join(dir, "curl")}, "give the file of the body by --body"},
		{[]string{filepath.Join(dir, "absent")}, "no such file"},
		{nil, "give the captured request"},
		{[]string{"--headers", bodyFile}, "give the --body too"},
	} {
		contains(t, headgate(t, 2, append([]string{"verify", "--secret-file", keyFile}, tt.args...)...).err.String(), tt.says)
	}
}

// A line of a body can begin as those of curl -v do.
func TestParseCapture_KeepsBody(t *testing.T) {
	h, body, err := parseCapture([]byte("webhook-id: msg_1\n\nfirst\n> second\n\n"))
	if err != nil || h.Get("webhook-id") != "msg_1" || string(body) != "first\n> second\n\n" {
		t.Errorf("parseCapture = %v, %q, %v", h, body, err)
	}
}
