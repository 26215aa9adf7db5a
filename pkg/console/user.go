package console

import (
	"context"
	"net"
	"net/http"
)

// A User is who makes a request, and what they may do.
type User struct {
	Name string
	// View allows the pages, Payload the bodies of events, and Operate the actions.
	View, Payload, Operate bool

	session bool // a cookie tells the user
}

// LogsOut reports whether the user has logged in here, and can log out.
func (u User) LogsOut() bool { return u.session }

// Role says in a word what the user may do.
func (u User) Role() string {
	switch {
	case u.Operate:
		return "operator"
	case u.View:
		return "viewer"
	}
	return "none"
}

// An Access decides who may see the console.
type Access interface {
	// Protect calls next for the requests of known users, which have their User in the context (WithUser), and answers the others.
	Protect(next http.Handler) http.Handler
}

type userKey struct{}

// WithUser returns a context for the requests of a user.
func WithUser(ctx context.Context, u User) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// userOf returns the user of a request. Without one it has no right.
func userOf(r *http.Request) User {
	u, _ := r.Context().Value(userKey{}).(User)
	return u
}

// Local is the access of headgate dev: every request is that of the local user, with all rights. It refuses a request by another
// name than localhost or an IP address, because any web page can point a name of its own at this machine.
type Local struct{}

// Protect adds the local user.
func (Local) Protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if host != "localhost" && net.ParseIP(trimBrackets(host)) == nil {
			http.Error(w, "open the console by its IP address or as localhost", http.StatusMisdirectedRequest)
			return
		}
		u := User{Name: "local", View: true, Payload: true, Operate: true}
		next.ServeHTTP(w, r.WithContext(WithUser(r.Context(), u)))
	})
}

func trimBrackets(host string) string {
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		return host[1 : len(host)-1]
	}
	return host
}
