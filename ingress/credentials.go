package ingress

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"
)

// A credential is the digest of a value of the header Authorization: all have the same length, and a memory dump shows none.
type credential [sha256.Size]byte

// parseAuthorization parses a value of the header Authorization as Codat's Portal lets a user set it: any text, with a
// scheme like Bearer or without. After Basic it may be user:password in plain text. A text that no request can match is an
// error, which never contains the value.
func parseAuthorization(text string) (credential, error) {
	text, err := headerValue(text)
	switch name, _, ok := strings.Cut(text, ":"); {
	case err != nil:
		return credential{}, err
	case text == "":
		return credential{}, errors.New("a value is empty: give the whole value of the header, like Bearer …")
	case ok && strings.EqualFold(strings.TrimSpace(name), "authorization"):
		return credential{}, errors.New("a value begins with the name of the header: remove the leading `Authorization:`")
	}
	scheme, rest, ok := strings.Cut(text, " ")
	if ok && quoted(strings.TrimSpace(rest)) {
		return credential{}, errQuotes
	}
	if ok && strings.EqualFold(scheme, "basic") && strings.Contains(rest, ":") { // base64 contains no colon
		text = scheme + " " + base64.StdEncoding.EncodeToString([]byte(strings.TrimSpace(rest)))
	}
	return digest(text), nil
}

// parseClientID parses a value of the header X-Codat-ClientId.
func parseClientID(text string) (string, error) {
	id, err := headerValue(text)
	if err == nil && id == "" {
		err = errors.New("a client id is empty: give the id, or remove the setting")
	}
	return id, err
}

var errQuotes = errors.New("a value has quotes around it: give it without them")

// headerValue returns a configured value of a header without white space and byte order mark around it. A text that no
// header can have is an error, as is one in quotes, which a shell or an editor left there.
func headerValue(text string) (string, error) {
	text = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(text), "\uFEFF"))
	switch {
	case strings.ContainsRune(text, utf8.RuneError): // or a byte that is not UTF-8
		return "", errors.New("a value is not in UTF-8: save the file in UTF-8")
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", errors.New("a value contains control characters or invisible ones, which no header can have: remove them")
	case quoted(text):
		return "", errQuotes
	}
	return text, nil
}

// quoted reports whether a text has the same quotes at both ends.
func quoted(text string) bool {
	return len(text) > 1 && (text[0] == '"' || text[0] == '\'') && text[len(text)-1] == text[0]
}

// digest returns the digest of a header's value. The scheme is not case-sensitive.
func digest(value string) credential {
	value = strings.TrimSpace(value)
	if scheme, rest, ok := strings.Cut(value, " "); ok {
		value = strings.ToLower(scheme) + " " + strings.TrimSpace(rest)
	}
	return sha256.Sum256([]byte(value))
}

// credentials are the accepted values of the header Authorization. Without any, every request is accepted. They can be
// replaced while requests run.
type credentials struct {
	list atomic.Pointer[[]credential]
}

func (c *credentials) set(list []credential) { c.list.Store(&list) }

// count returns the number of values.
func (c *credentials) count() int {
	if list := c.list.Load(); list != nil {
		return len(*list)
	}
	return 0
}

// accept reports whether the header occurs once and has one of the values. Its duration does not depend on how similar the
// value is.
func (c *credentials) accept(lines []string) bool {
	list := c.list.Load()
	if list == nil || len(*list) == 0 {
		return true
	}
	if len(lines) != 1 {
		return false
	}
	received := digest(lines[0])
	found := 0
	for _, one := range *list {
		found |= subtle.ConstantTimeCompare(received[:], one[:])
	}
	return found == 1
}
