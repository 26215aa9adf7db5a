package codat

import (
	"errors"
	"fmt"
	"strings"
)

// ErrBadType means that a text is not an event type, or not a pattern of types.
var ErrBadType = errors.New("invalid event type")

// The limits of an event type. They keep a NATS subject that ends in a type far below what a server accepts.
const (
	MaxTypeLength = 200 // characters
	MaxTypeTokens = 16  // tokens, the parts between dots
)

// A Pattern chooses event types by the rules of NATS subjects: "*" stands for exactly one token, wherever it is, and ">"
// at the end for one or more. A pattern without a wildcard chooses the one type that it names.
//
//	invoices.write.successful    this type
//	*.write.successful           the successful writes of every data type
//	company.>                    company.created, company.product.added, ...
//	>                            every type
//
// The names of handlers and subscriptions, the filters of consumers and the --type flags are patterns. Match, Overlaps and
// Covers know only tokens and wildcards, so they also judge whole subjects.
type Pattern string

// Validate returns ErrBadType for a pattern with a token that is neither a wildcard nor [A-Za-z0-9_-]+, with a ">" that is
// not the last token, or beyond MaxTypeTokens or MaxTypeLength.
func (p Pattern) Validate() error { return validate(string(p), true) }

// Match reports whether the pattern chooses a type.
func (p Pattern) Match(typ string) bool { return p.Covers(Pattern(typ)) }

// Covers reports whether p chooses every type that q chooses.
func (p Pattern) Covers(q Pattern) bool {
	for {
		a, aRest, aMore := strings.Cut(string(p), ".")
		b, bRest, bMore := strings.Cut(string(q), ".")
		switch {
		case a == ">":
			return true
		case b == ">":
			return false // q chooses longer types than p does
		case a != "*" && a != b:
			return false
		case !aMore || !bMore:
			return aMore == bMore
		}
		p, q = Pattern(aRest), Pattern(bRest)
	}
}

// Overlaps reports whether p and q both choose some type.
func (p Pattern) Overlaps(q Pattern) bool {
	for {
		a, aRest, aMore := strings.Cut(string(p), ".")
		b, bRest, bMore := strings.Cut(string(q), ".")
		switch {
		case a == ">" || b == ">":
			return true
		case a != "*" && b != "*" && a != b:
			return false
		case !aMore || !bMore:
			return aMore == bMore
		}
		p, q = Pattern(aRest), Pattern(bRest)
	}
}

// ValidateType returns ErrBadType for a text that is not a type: one with a token outside [A-Za-z0-9_-]+, or beyond
// MaxTypeTokens or MaxTypeLength. Codat's own types are all valid, the sentences of legacy rules only as Read names them.
func ValidateType(typ string) error { return validate(typ, false) }

// validate checks a type, or a pattern, whose tokens may be wildcards. It is called for every event.
func validate(name string, pattern bool) error {
	if len(name) > MaxTypeLength {
		return fmt.Errorf("%w: longer than %d characters", ErrBadType, MaxTypeLength)
	}
	tokens, start := 1, 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '.' {
			if c := name[i]; !isTypeByte(c) && !(pattern && (c == '*' || c == '>')) {
				return fmt.Errorf("%w: it has a character that is not a letter, a digit, _ or -", ErrBadType)
			}
			continue
		}
		switch token := name[start:i]; {
		case token == "":
			return fmt.Errorf("%w: a part between dots is empty", ErrBadType)
		case pattern && len(token) > 1 && strings.ContainsAny(token, "*>"):
			return fmt.Errorf("%w: a wildcard stands for a whole part between dots", ErrBadType)
		case token == ">" && i < len(name):
			return fmt.Errorf("%w: > must be the last part", ErrBadType)
		}
		start = i + 1
		if i < len(name) {
			tokens++
		}
	}
	if tokens > MaxTypeTokens {
		return fmt.Errorf("%w: more than %d parts between dots", ErrBadType, MaxTypeTokens)
	}
	return nil
}

func isTypeByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}
