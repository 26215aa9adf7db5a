package operator

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A companyID recognises the id of one company in what is stored.
type companyID string

// maxCompanyID is the length of the longest id that an event's headers have, in bytes.
const maxCompanyID = 512

func (c companyID) validate() error {
	if strings.TrimSpace(string(c)) == "" || len(c) > maxCompanyID || !utf8.ValidString(string(c)) {
		return errors.New("the id of a company must have 1 to 512 bytes of text, as Codat and headgate connections show it")
	}
	return nil
}

// hash is what stands for the id in a record that outlives the company's data.
func (c companyID) hash() string {
	sum := sha256.Sum256([]byte(c))
	return hex.EncodeToString(sum[:])
}

var uuidPattern = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// inText reports whether a text has the id: a UUID anywhere, and another id only between characters that no id has, because c-1 is not
// c-12.
func (c companyID) inText(s string) bool { return c.next(s) >= 0 }

// next returns where the id begins in a text, or -1.
func (c companyID) next(s string) int {
	id := string(c)
	for at := 0; ; {
		i := strings.Index(s[at:], id)
		if i < 0 {
			return -1
		}
		at += i
		before, _ := utf8.DecodeLastRuneInString(s[:at])
		after, _ := utf8.DecodeRuneInString(s[at+len(id):])
		if uuidPattern.MatchString(id) || !ofID(before) && !ofID(after) {
			return at
		}
		_, size := utf8.DecodeRuneInString(s[at:])
		at += size
	}
}

func ofID(r rune) bool {
	return r != utf8.RuneError && (r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r))
}

// erasedName stands where the id was in a text that is kept.
const erasedName = "(erased)"

// without returns a text with erasedName in place of the id.
func (c companyID) without(s string) string {
	var b strings.Builder
	for {
		i := c.next(s)
		if i < 0 {
			return b.String() + s
		}
		b.WriteString(s[:i] + erasedName)
		s = s[i+len(c):]
	}
}

// inBody reports whether a body has the id: a string, a name or a number of JSON, however it is escaped, or the text of what is not JSON.
func (c companyID) inBody(body []byte) bool {
	if !bytes.Contains(body, []byte(c)) && bytes.IndexByte(body, '\\') < 0 {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	for {
		token, err := d.Token()
		switch v := token.(type) {
		case string:
			if c.inText(v) {
				return true
			}
		case json.Number:
			if v.String() == string(c) {
				return true
			}
		}
		if errors.Is(err, io.EOF) {
			return false
		}
		if err != nil { // it is not JSON, or not to its end
			return c.inText(string(body))
		}
	}
}

// inHeader reports whether a value of a header has the id, also when it is encoded as CloudEvents are. It passes over what the server adds.
func (c companyID) inHeader(h nats.Header) bool {
	for name, values := range h {
		if strings.HasPrefix(name, "Nats-") && name != jetstream.MsgIDHeader {
			continue
		}
		for _, v := range values {
			if c.inText(v) {
				return true
			}
			if decoded, err := url.PathUnescape(v); err == nil && c.inText(decoded) {
				return true
			}
		}
	}
	return false
}

// inKey reports whether a part of a bucket's key is the id.
func (c companyID) inKey(key string) bool {
	for part := range strings.SplitSeq(key, ".") {
		if part == string(c) {
			return true
		}
	}
	return false
}

// companyOf returns the company that a record of a bucket says that it is of, or "".
func companyOf(value []byte) string {
	type named struct {
		Company string `json:"company"`
	}
	var r struct {
		named
		Plan named `json:"plan"`
	}
	_ = json.Unmarshal(value, &r) // a record of another form says no company
	return cmp.Or(r.Company, r.Plan.Company)
}
