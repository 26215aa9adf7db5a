package ingress

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strings"
	"sync/atomic"
)

// A credential is what a header must say, as a digest: all are of one length, and none is in a dump of memory.
type credential [sha256.Size]byte

// parseAuthorization reads a value of the header Authorization as Codat's Portal lets a user set it, any text: with a
// scheme, as Bearer and a token, or without. After Basic, user:password may stand as it is.
func parseAuthorization(text string) (credential, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return credential{}, errors.New("a value is empty: give the header's whole value, as Bearer …")
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return credential{}, errors.New("a value has control characters: no header can carry it")
	}
	scheme, rest, ok := strings.Cut(text, " ")
	if ok && strings.EqualFold(scheme, "basic") && strings.Contains(rest, ":") { // base64 has none
		text = scheme + " " + base64.StdEncoding.EncodeToString([]byte(strings.TrimSpace(rest)))
	}
	return digest(text), nil
}

// digest is of a header's value. The name of a scheme means the same in small letters and in capitals.
func digest(value string) credential {
	value = strings.TrimSpace(value)
	if scheme, rest, ok := strings.Cut(value, " "); ok {
		value = strings.ToLower(scheme) + " " + strings.TrimSpace(rest)
	}
	return sha256.Sum256([]byte(value))
}

// Credentials are values of the header Authorization of which a request must have one; none are asked for when there
// are none. They can be replaced while requests run.
type Credentials struct {
	list atomic.Pointer[[]credential]
}

func (c *Credentials) set(list []credential) { c.list.Store(&list) }

// count is how many there are.
func (c *Credentials) count() int {
	if list := c.list.Load(); list != nil {
		return len(*list)
	}
	return 0
}

// accept reports whether the lines of the header are one line that has one of the values. How long that takes says
// nothing of how near it came.
func (c *Credentials) accept(lines []string) bool {
	list := c.list.Load()
	if list == nil || len(*list) == 0 {
		return true
	}
	if len(lines) != 1 {
		return false
	}
	came := digest(lines[0])
	found := 0
	for _, one := range *list {
		found |= subtle.ConstantTimeCompare(came[:], one[:])
	}
	return found == 1
}
