package signature

import (
	"math/big"
	"math/rand/v2"
	"strings"
	"time"
)

// A webhook-id of Svix is msg_ and a KSUID in 27 digits of base 62: 32 bits of seconds since an epoch, and 128 bits that are random.
const (
	idPrefix    = "msg_"
	idDigits    = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	idLength    = 27
	idRandom    = 128 // bits
	idEpoch     = 1_400_000_000
	idFirstYear = 2020 // before which Codat sent nothing
)

var idBase = big.NewInt(int64(len(idDigits)))

// NewID returns a new webhook-id as Svix makes it, with the time that it is now.
func NewID() string {
	number := big.NewInt(time.Now().Unix() - idEpoch)
	for range idRandom / 32 {
		number.Add(number.Lsh(number, 32), big.NewInt(int64(rand.Uint32())))
	}
	digits, digit := make([]byte, idLength), new(big.Int)
	for i := range digits {
		number.DivMod(number, idBase, digit)
		digits[idLength-1-i] = idDigits[digit.Int64()]
	}
	return idPrefix + string(digits)
}

// IDTime returns when Svix made the message of a webhook-id, to the second. It returns false for an id that has another form, and
// for a time before 2020. The id of another sender can have the form and any time.
func IDTime(id string) (time.Time, bool) {
	text, ok := strings.CutPrefix(id, idPrefix)
	if !ok || len(text) != idLength {
		return time.Time{}, false
	}
	number := new(big.Int)
	for i := range len(text) {
		d := strings.IndexByte(idDigits, text[i])
		if d < 0 {
			return time.Time{}, false
		}
		number.Add(number.Mul(number, idBase), big.NewInt(int64(d)))
	}
	seconds := number.Rsh(number, idRandom)
	if seconds.BitLen() > 32 {
		return time.Time{}, false
	}
	at := time.Unix(idEpoch+seconds.Int64(), 0).UTC()
	return at, at.Year() >= idFirstYear
}
