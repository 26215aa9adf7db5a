package signature

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Evidence returns what the headers of a request tell about its signature, at little cost: which signature headers there are and how
// many signatures of which version. No value of a header is in it but that of Content-Encoding, cut and quoted.
func Evidence(h http.Header) []string {
	var present, all []string
	for _, names := range families {
		for _, name := range []string{names.id, names.timestamp, names.signature} {
			switch lines := h[name]; {
			case len(lines) == 1:
				present = append(present, strings.ToLower(name))
			case len(lines) > 1:
				present = append(present, fmt.Sprintf("%s in %d lines", strings.ToLower(name), len(lines)))
			}
		}
	}
	if present == nil {
		present = []string{"none"}
	}
	all = append(all, "signature headers: "+strings.Join(present, ", "))
	for _, names := range families {
		if lines := h[names.signature]; len(lines) > 0 {
			all = append(all, fmt.Sprintf("signatures in %s: %s", strings.ToLower(names.signature), versions(lines)))
		}
	}
	if e := h.Get("Content-Encoding"); e != "" {
		all = append(all, "Content-Encoding is "+strconv.Quote(e[:min(len(e), 64)]))
	}
	return all
}

// versions counts the signatures of a header by version.
func versions(lines []string) string {
	var v1, v1a, other int
	for one := range strings.FieldsSeq(strings.Join(lines, " ")) {
		switch version, _, _ := strings.Cut(one, ","); version {
		case "v1":
			v1++
		case "v1a":
			v1a++
		default:
			other++
		}
	}
	var parts []string
	for _, c := range []struct {
		n    int
		text string
	}{{v1, "v1"}, {v1a, "v1a (ed25519, not verified)"}, {other, "another form"}} {
		if c.n > 0 {
			parts = append(parts, fmt.Sprintf("%d of %s", c.n, c.text))
		}
	}
	return strings.Join(parts, ", ")
}

// clock returns the difference between the signed time and the arrival, for each time that can be read.
func clock(h http.Header, arrival time.Time) (all []string) {
	for _, names := range families {
		lines := h[names.timestamp]
		if len(lines) != 1 || lines[0] == "" {
			continue
		}
		at, err := readTimestamp(lines[0])
		if err != nil {
			continue
		}
		where := "before"
		age := arrival.Sub(at).Round(time.Second)
		if age < 0 {
			age, where = at.Sub(arrival).Round(time.Second), "after"
		}
		if text := fmt.Sprintf("signed %s %s the arrival", age, where); !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

// bodyEvidence tells the length of a body that is not proven, and with parse its form.
func bodyEvidence(h http.Header, body []byte, parse bool) (all []string) {
	if n, err := strconv.Atoi(h.Get("Content-Length")); err == nil && n != len(body) {
		all = append(all, fmt.Sprintf("Content-Length is %d: the body is not the one that was sent, or is cut off", n))
	}
	if !parse {
		return append(all, fmt.Sprintf("the body has %d bytes", len(body)))
	}
	form := "no JSON"
	var compact bytes.Buffer
	switch err := json.Compact(&compact, body); {
	case err == nil && compact.Len() == len(body):
		form = "JSON without white space"
	case err == nil:
		form = "JSON with white space"
	case endsEarly(body):
		form = "JSON that ends early"
	}
	all = append(all, fmt.Sprintf("the body has %d bytes: %s", len(body), form))
	if bytes.Contains(body, []byte("\uFFFD")) || !utf8.Valid(body) {
		all = append(all, "the body has bytes that are no UTF-8, or replacement characters where they were")
	}
	return all
}

// cutOff reports whether a body is shorter than it was sent, and how it ends.
func cutOff(h http.Header, body []byte) (ends string, cut bool) {
	if n, err := strconv.Atoi(h.Get("Content-Length")); err == nil && n > len(body) {
		return fmt.Sprintf("it has %d bytes of the %d of Content-Length", len(body), n), true
	}
	if endsEarly(body) {
		return fmt.Sprintf("it is JSON that ends after %d bytes", len(body)), true
	}
	return "", false
}

// endsEarly reports whether a body is the beginning of JSON.
func endsEarly(body []byte) bool {
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return false
	}
	var whole json.RawMessage
	err := json.Unmarshal(body, &whole)
	return err != nil && err.Error() == "unexpected end of JSON input"
}
