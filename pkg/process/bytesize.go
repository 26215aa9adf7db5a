package process

import (
	"fmt"
	"math"

	"github.com/docker/go-units"
)

// A ByteSize is a number of bytes in flags and files: a plain number, or one with a unit, as 512k or 1MiB. Units are
// binary and their case does not matter: k, KB and KiB are 1024 bytes.
type ByteSize int64

// UnmarshalText reads a size.
func (b *ByteSize) UnmarshalText(text []byte) error {
	n, err := units.RAMInBytes(string(text))
	// A number that int64 cannot hold becomes the smallest or, on other processors, the largest one.
	if err != nil || n < 0 || n == math.MaxInt64 {
		return fmt.Errorf("%q must be a number of bytes, or a number with KiB, MiB or GiB, as 1MiB", text)
	}
	*b = ByteSize(n)
	return nil
}

// String returns the size with a binary unit and four digits at most. UnmarshalText reads it.
func (b ByteSize) String() string { return units.BytesSize(float64(b)) }
