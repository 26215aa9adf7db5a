package console

import (
	"net/http"

	"golang.org/x/crypto/bcrypt"
)

// The cost of passwords, and the hash that nobody's password has, as they are outside of tests. In tests passwords cost little: with the
// race detector one takes ten seconds.
var productionCost, productionHash = passwordCost, noPassword

func init() {
	passwordCost = bcrypt.MinCost
	hash, err := HashPassword("a password that nobody has")
	if err != nil {
		panic(err)
	}
	noPassword = hash
}

// UserOf returns the user of a request.
func UserOf(r *http.Request) User { return userOf(r) }

// Asset returns the address of a file of static.
func Asset(name string) string { return asset(name) }

// Reload reads the file of users.
func (l *LogIn) Reload() error { return l.read() }
