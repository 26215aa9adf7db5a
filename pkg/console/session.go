package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Names of the cookie. A browser takes one that begins with __Host- only over TLS, and from no other host and path.
const (
	sessionCookie       = "headgate_session"
	secureSessionCookie = "__Host-headgate_session"
)

// maxCookie is longer than any cookie that sessions makes.
const maxCookie = 512

// sessions are cookies that say who has logged in, until when. They are signed, and no store has them. A cookie is valid only with
// the hashes that its user had at the log-in: another password ends it.
type sessions struct {
	key []byte
	age time.Duration

	mu    sync.Mutex
	ended map[string]time.Time // ids of sessions that were logged out, with their ends
}

// A session is what a cookie says.
type session struct {
	name, id string
	ends     time.Time
}

var encoding = base64.RawURLEncoding.Strict()

// begin returns a cookie for a user.
func (s *sessions) begin(e userEntry, now time.Time) (value string, ends time.Time) {
	id := make([]byte, 16)
	rand.Read(id) // it never fails
	one := session{name: e.Name, id: encoding.EncodeToString(id), ends: now.Add(s.age).Truncate(time.Second)}
	text := one.text()
	return text + "." + encoding.EncodeToString(s.sign(text, e)), one.ends
}

func (s session) text() string {
	return fmt.Sprintf("%s.%s.%d", encoding.EncodeToString([]byte(s.name)), s.id, s.ends.Unix())
}

// sign returns the signature of a session of a user.
func (s *sessions) sign(text string, e userEntry) []byte {
	mac := hmac.New(sha256.New, s.key)
	fmt.Fprintf(mac, "headgate console session\n%s\n%s\n%s\n", text, e.Password, e.Token)
	return mac.Sum(nil)
}

// open returns the session of a cookie that is valid for one of the users.
func (s *sessions) open(value string, all users, now time.Time) (session, userEntry, bool) {
	one, signature, ok := parseSession(value)
	if !ok {
		return session{}, userEntry{}, false
	}
	e, known := all[one.name]
	if !hmac.Equal(signature, s.sign(one.text(), e)) || !known || !now.Before(one.ends) {
		return session{}, userEntry{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ended := s.ended[one.id]; ended {
		return session{}, userEntry{}, false
	}
	return one, e, true
}

// parseSession reads a cookie, of which nothing is verified. A session has one text only.
func parseSession(value string) (one session, signature []byte, ok bool) {
	parts := strings.Split(value, ".")
	if len(value) > maxCookie || len(parts) != 4 {
		return session{}, nil, false
	}
	name, err := encoding.DecodeString(parts[0])
	if err != nil {
		return session{}, nil, false
	}
	ends, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return session{}, nil, false
	}
	if signature, err = encoding.DecodeString(parts[3]); err != nil {
		return session{}, nil, false
	}
	one = session{name: string(name), id: parts[1], ends: time.Unix(ends, 0)}
	return one, signature, one.text() == strings.Join(parts[:3], ".")
}

// end makes a session invalid in this process.
func (s *sessions) end(one session, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = map[string]time.Time{}
	}
	for id, ends := range s.ended {
		if !now.Before(ends) {
			delete(s.ended, id)
		}
	}
	s.ended[one.id] = one.ends
}

// cookie returns the cookie of a session. An empty value deletes it.
func cookie(value string, ends time.Time, secure bool) *http.Cookie {
	c := &http.Cookie{Name: cookieName(secure), Value: value, Path: "/", HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode}
	if value == "" {
		c.MaxAge = -1
	} else {
		c.Expires = ends
	}
	return c
}

func cookieName(secure bool) string {
	if secure {
		return secureSessionCookie
	}
	return sessionCookie
}
