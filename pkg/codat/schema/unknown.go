package schema

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Finding is what a body has and its shape does not know.
type Finding struct {
	// Field is the path of the member: names joined by dots, with [] behind that of an array. It is printable ASCII, a name
	// that has other characters than letters, digits, _ and - is quoted, and a long one is cut.
	Field string
	// Value says that the shape knows the member and not the value that it has, which is one of an enumeration.
	Value bool
}

const (
	maxFindings = 50  // of one body
	maxName     = 64  // bytes of a name, before it is quoted
	maxField    = 200 // bytes of a path
)

// Unknown returns what a body has that the shape does not know, each once, sorted by field, at most 50. It looks into no
// member that the shape does not know, and into none whose names or JSON type can be any. Names are matched without regard
// to case, as encoding/json does. Of a body that is not JSON it returns nothing.
func (s *Shape) Unknown(body []byte) []Finding {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	found := map[Finding]bool{}
	s.unknown(found, "", v)
	all := make([]Finding, 0, len(found))
	for f := range found {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b Finding) int { return strings.Compare(a.Field, b.Field) })
	return all
}

func (s *Shape) unknown(found map[Finding]bool, path string, v any) {
	if len(found) >= maxFindings {
		return
	}
	switch v := v.(type) {
	case string:
		if len(s.Values) > 0 && v != "" && !slices.Contains(s.Values, v) {
			found[Finding{Field: path, Value: true}] = true
		}
	case []any:
		if s.Kind == Array {
			for _, element := range v {
				s.Element.unknown(found, path+"[]", element)
			}
		}
	case map[string]any:
		if s.Kind != Object {
			return
		}
		for name, value := range v {
			m := s.member(name)
			if m == nil {
				if len(found) < maxFindings {
					found[Finding{Field: join(path, cleanName(name))}] = true
				}
				continue
			}
			m.Shape.unknown(found, join(path, m.Name), value)
		}
	}
}

// member returns the member with a name, and nil without one.
func (s *Shape) member(name string) *Member {
	for i := range s.Members {
		if strings.EqualFold(s.Members[i].Name, name) {
			return &s.Members[i]
		}
	}
	return nil
}

// join appends a name to a path, and cuts a long path.
func join(path, name string) string {
	if path != "" {
		name = path + "." + name
	}
	if len(name) > maxField {
		return name[:maxField] + "..."
	}
	return name
}

// cleanName returns a name that a body has, quoted unless it is plain, and cut when it is long.
func cleanName(name string) string {
	cut := name
	if len(cut) > maxName {
		cut = cut[:maxName]
		for !utf8.ValidString(cut) && utf8.ValidString(name) {
			cut = cut[:len(cut)-1]
		}
	}
	plain := cut != "" && strings.IndexFunc(cut, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}) < 0
	if !plain {
		cut = strconv.QuoteToASCII(cut)
	}
	if len(name) > maxName {
		cut += "..."
	}
	return cut
}
