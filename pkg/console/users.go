package console

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/headgate/headgate/pkg/yamlfile"
)

const (
	// maxPassword is what bcrypt reads of a password, in bytes.
	maxPassword = 72
	// MinPassword is the shortest password that HashPassword takes, in bytes.
	MinPassword = 12
	// tokenPrefix begins the hash of a token in the file of users.
	tokenPrefix = "sha256:"
)

// passwordCost is the bcrypt cost of every password. With one cost a wrong name takes as long as a wrong password.
var passwordCost = 12

// A userEntry is a user in the file of users, with the hash of a password, of a token, or of both.
type userEntry struct {
	Name     string   `yaml:"name"`
	Password string   `yaml:"password"`
	Token    string   `yaml:"token"`
	Rights   []string `yaml:"rights"`

	user  User
	token [sha256.Size]byte
}

// users are the entries of a file by their names.
type users map[string]userEntry

var userName = regexp.MustCompile(`^[A-Za-z0-9._@+-]{1,64}$`)

// ValidateUserName returns an error for a name that no user can have.
func ValidateUserName(name string) error {
	if !userName.MatchString(name) {
		return fmt.Errorf("a name must be 1 to 64 letters, digits, or . _ @ + - (got %q)", name)
	}
	return nil
}

// ParseRights returns a user without a name who has the rights view, payload and operate as they are listed. The other two need
// view.
func ParseRights(rights []string) (User, error) {
	var u User
	for _, right := range rights {
		if !u.grant(strings.TrimSpace(right)) {
			return User{}, fmt.Errorf("%q is not a right: write view, payload or operate", right)
		}
	}
	if !u.View {
		return User{}, errors.New("rights must include view")
	}
	return u, nil
}

// grant adds a right, and reports whether there is one of that name.
func (u *User) grant(right string) bool {
	switch right {
	case "view":
		u.View = true
	case "payload":
		u.Payload = true
	case "operate":
		u.Operate = true
	default:
		return false
	}
	return true
}

// HashPassword returns the hash of a password for the file of users. It returns an error for a password of fewer than MinPassword or
// more than 72 bytes.
func HashPassword(password string) (string, error) {
	if len(password) < MinPassword || len(password) > maxPassword {
		return "", fmt.Errorf("a password must have %d to %d bytes (got %d)", MinPassword, maxPassword, len(password))
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), passwordCost)
	return string(hash), err
}

// HashToken returns the hash of a token for the file of users.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return tokenPrefix + hex.EncodeToString(sum[:])
}

// readUsers reads the file of users. An error names the user and the cure, and no hash.
func readUsers(file string) (users, error) {
	entries, err := yamlfile.ReadList(file, yamlfile.List{Noun: "user", Required: "name, password or token, and rights"}, userEntry{})
	if err != nil {
		return nil, err
	}
	all := users{}
	for i, e := range entries {
		if err := ValidateUserName(e.Name); err != nil {
			return nil, fmt.Errorf("user number %d: %w", i+1, err)
		}
		if _, twice := all[e.Name]; twice {
			return nil, fmt.Errorf("two users have the name %s: give each its own", e.Name)
		}
		if err := e.parse(); err != nil {
			return nil, fmt.Errorf("user %s: %w", e.Name, err)
		}
		all[e.Name] = e
	}
	return all, nil
}

// parse reads the rights and the hashes.
func (e *userEntry) parse() (err error) {
	if e.user, err = ParseRights(e.Rights); err != nil {
		return err
	}
	e.user.Name = e.Name
	if e.Password == "" && e.Token == "" {
		return errors.New("it has neither a password nor a token: headgate console user makes an entry")
	}
	if e.Password != "" {
		cost, err := bcrypt.Cost([]byte(e.Password))
		if err != nil || cost != passwordCost || len(e.Password) != len(noPassword) {
			return fmt.Errorf("password must be a bcrypt hash of cost %d: headgate console user makes one", passwordCost)
		}
	}
	if e.Token != "" {
		digits, is := strings.CutPrefix(e.Token, tokenPrefix)
		sum, err := hex.DecodeString(digits)
		if !is || err != nil || len(sum) != sha256.Size {
			return errors.New("token must be sha256: and 64 hexadecimal digits: headgate console user --token makes one")
		}
		e.token = [sha256.Size]byte(sum)
	}
	return nil
}

// noPassword is the hash of a password that nobody knows, with which a log-in by a name without a password is compared, so that it takes as
// long.
var noPassword = "$2a$12$ifTgr0Uhzva9S9y7NoPtDe0mOHRB/pZ5vPdWnDIchmPV14oDjz2PS"

// check returns the user of a name and a password or token. It takes as long for an unknown name as for a wrong password or token.
func (u users) check(name, secret string) (User, bool) {
	e := u[name]
	if e.hasToken(secret) {
		return e.user, true
	}
	hash, has := e.Password, e.Password != ""
	if !has || len(secret) > maxPassword {
		hash, has = noPassword, false
	}
	right := bcrypt.CompareHashAndPassword([]byte(hash), []byte(secret[:min(len(secret), maxPassword)])) == nil && has
	return e.user, right
}

// hasToken reports whether a text is the token of the user.
func (e userEntry) hasToken(text string) bool {
	sum := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(sum[:], e.token[:]) == 1 && e.Token != ""
}

// byToken returns the user with a token.
func (u users) byToken(token string) (found User, ok bool) {
	for _, e := range u { // all, so that the time tells nothing of which
		if e.hasToken(token) {
			found, ok = e.user, true
		}
	}
	return found, ok
}
