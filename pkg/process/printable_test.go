package process

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func TestPrintable_EscapesWhatATerminalObeys(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain\ttext\n":            "plain\ttext\n",
		"é 日本 😀":                   "é 日本 😀",
		"\u009b31m":                `\u009b31m`,
		"a\x7fb\x1b[0m\r":          `a\u007fb\u001b[0m\u000d`,
		"\u202eevil\u2066":         `\u202eevil\u2066`,
		"tag \U000e0001":           `tag \udb40\udc01`,
		"\x9b":                     `\ufffd`,
		`{"a":"` + "\u0085" + `"}`: `{"a":"\u0085"}`,
	} {
		var b bytes.Buffer
		if n, err := (Printable{&b}).Write([]byte(text)); n != len(text) || err != nil || b.String() != want {
			t.Errorf("%q: wrote %q, %d, %v; want %q", text, b.String(), n, err, want)
		}
	}
}

// The log is read in terminals, and a client chooses what is in it.
func TestSettings_LoggerEscapesForeignText(t *testing.T) {
	t.Parallel()
	const path = "/\u009b2J\u202e\x7f"
	for _, format := range []string{"json", "console"} {
		var b bytes.Buffer
		log, err := Settings{LogLevel: "info", LogFormat: format}.Logger(&b)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("request", zap.String("path", path))
		if strings.ContainsAny(b.String(), "\u009b\u202e\x7f") {
			t.Errorf("%s: the line has a control character: %q", format, b.String())
		}
		var line struct{ Path string }
		if format == "json" && (json.Unmarshal(b.Bytes(), &line) != nil || line.Path != path) {
			t.Errorf("the line is %q; want JSON with the path %q", b.String(), path)
		}
	}
}
