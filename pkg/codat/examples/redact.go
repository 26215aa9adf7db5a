package examples

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/headgate/headgate/pkg/codat"
)

// What Redact puts in place of a text and of an address.
const (
	redactedText = "redacted"
	redactedURL  = "https://redacted.example/"
)

// enumerations are the types of the members, in lower case, whose values Codat documents: those stay as they are.
var enumerations = map[string][]reflect.Type{
	"status":      statuses,
	"newstatus":   statuses,
	"oldstatus":   statuses,
	"accounttype": {reflect.TypeFor[codat.AccountType]()},
	"datatype":    {reflect.TypeFor[codat.DataType]()},
	"sourcetype":  {reflect.TypeFor[codat.SourceType]()},
	"type":        {reflect.TypeFor[codat.WriteType](), reflect.TypeFor[codat.RoutingType](), reflect.TypeFor[codat.AccountType]()},
}

var statuses = []reflect.Type{
	reflect.TypeFor[codat.PushStatus](), reflect.TypeFor[codat.ConnectionStatus](), reflect.TypeFor[codat.ConnectionErrorStatus](),
	reflect.TypeFor[codat.DatasetStatus](), reflect.TypeFor[codat.TransactionStatus](), reflect.TypeFor[codat.SourceAccountStatus](),
}

var (
	// counts are the members, in lower case, whose numbers are not of a company.
	counts = []string{"dailyquota", "quotaremaining", "statuscode"}

	word       = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	currency   = regexp.MustCompile(`^[A-Z]{3}$`)
	platform   = regexp.MustCompile(`^[a-z]{4}$`)                // a key of Codat's for a platform
	rule       = regexp.MustCompile(`^[A-Za-z()"'{}, -]{1,64}$`) // the type of a legacy event, a sentence
	memberName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)
	figures    = regexp.MustCompile(`[0-9]{4}`) // of an account or a card; no word of Codat's has as many
	date       = regexp.MustCompile(`^\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?)?$`)
	anyUUID    = regexp.MustCompile(`[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}`)
)

// maxFigures is how long a number of counts is at most.
const maxFigures = 6

// Redact returns the body of an event without what it tells of a company, as an example for tests: every id is a new one, the same in
// all places of the body; every other text is "redacted", an address that of no host, and a number 0. What stays are the structure
// with the names of members, true, false and null, dates, the type of the event, statuses and other words of Codat's, and the
// figures of a quota and of an HTTP status. A member whose name is an id or has four digits in a row is replaced like a text. It returns an error for a body that is not JSON. White space is not kept.
func Redact(body []byte) ([]byte, error) {
	r := redactor{in: json.NewDecoder(bytes.NewReader(body)), ids: map[string]string{}}
	r.in.UseNumber()
	if err := r.value(""); err != nil {
		return nil, fmt.Errorf("the body is not JSON, and cannot be redacted: %w", err)
	}
	if _, err := r.in.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the body is not JSON, and cannot be redacted: bytes follow its end")
	}
	return r.out.Bytes(), nil
}

type redactor struct {
	in    *json.Decoder
	out   bytes.Buffer
	depth int
	ids   map[string]string // new ones by those of the body
}

// value copies the next value, of the member with a name.
func (r *redactor) value(name string) error {
	token, err := r.in.Token()
	if err != nil {
		return err
	}
	switch v := token.(type) {
	case json.Delim:
		return r.members(name, v)
	case string:
		return r.write(r.text(strings.ToLower(name), v))
	case json.Number:
		if !slices.Contains(counts, strings.ToLower(name)) || len(v) > maxFigures {
			v = "0"
		}
		r.out.WriteString(v.String())
		return nil
	}
	return r.write(token)
}

// members copies what is in an object, or in an array with a name, whose beginning was read.
func (r *redactor) members(name string, begin json.Delim) error {
	r.out.WriteString(begin.String())
	r.depth++
	defer func() { r.depth-- }()
	for n := 0; r.in.More(); n++ {
		if n > 0 {
			r.out.WriteByte(',')
		}
		if begin == '{' {
			token, err := r.in.Token()
			if err != nil {
				return err
			}
			name, _ = token.(string)
			shown := name
			switch {
			case anyUUID.FindString(name) == name && name != "":
				shown = r.id(name, uuid.NewString)
			case !memberName.MatchString(name), figures.MatchString(name), anyUUID.MatchString(name):
				name, shown = redactedText, redactedText
			}
			if err := r.write(shown); err != nil {
				return err
			}
			r.out.WriteByte(':')
		}
		if err := r.value(name); err != nil {
			return err
		}
	}
	end, err := r.in.Token()
	if err == nil {
		_, err = fmt.Fprint(&r.out, end)
	}
	return err
}

func (r *redactor) write(v any) error {
	text, err := json.Marshal(v)
	r.out.Write(text)
	return err
}

// text returns what is in place of a text of the member with a name in lower case.
func (r *redactor) text(name, s string) string {
	switch {
	case s == "", date.MatchString(s), r.known(name, s):
		return s
	case strings.Contains(s, "://"):
		return redactedURL
	case anyUUID.FindString(s) == s:
		return r.id(s, uuid.NewString)
	case name == "id", strings.HasSuffix(name, "id"), strings.HasSuffix(name, "ids"), strings.HasSuffix(name, "key"):
		return r.id(s, func() string {
			b := make([]byte, 8)
			rand.Read(b) // it never fails
			return "id-" + hex.EncodeToString(b)
		})
	}
	return redactedText
}

// known reports whether a text of the member with a name in lower case is a word of Codat's, and none that people have written.
func (r *redactor) known(name, s string) bool {
	switch name {
	case "eventtype", "ruletype", "type": // of the event itself
		isWord := word.MatchString(s) && !figures.MatchString(s) && !anyUUID.MatchString(s)
		if r.depth == 1 && (isWord || name != "eventtype" && rule.MatchString(s)) {
			return true
		}
	case "currency":
		return currency.MatchString(s)
	case "integrationkey", "platformkey":
		return platform.MatchString(s)
	}
	return slices.ContainsFunc(enumerations[name], func(t reflect.Type) bool { return slices.Contains(codat.Values(t), s) })
}

// id returns the new id in place of another one. An id of zeros stays.
func (r *redactor) id(old string, make func() string) string {
	if strings.Trim(old, "0-") == "" {
		return old
	}
	if r.ids[old] == "" {
		r.ids[old] = make()
	}
	return r.ids[old]
}
