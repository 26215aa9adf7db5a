package process

import (
	"bytes"
	"io"
	"log"
	"os"
)

// net/http writes to Go's standard logger, and no setting of a client changes that.
func init() { log.SetOutput(unquoted{os.Stderr}) }

// unsolicited is how net/http begins to say what a server has sent beyond its answer, which can repeat a payload.
var unsolicited = []byte("Unsolicited response received on idle HTTP channel")

// unquoted is a writer of the standard logger's lines. It cuts those that have a server's answer after their beginning.
type unquoted struct{ w io.Writer }

// Write writes one line. It returns the length of the line when everything was written.
func (u unquoted) Write(line []byte) (int, error) {
	text := line
	if i := bytes.Index(line, unsolicited); i >= 0 {
		text = append(bytes.Clone(line[:i+len(unsolicited)]), '\n')
	}
	if _, err := u.w.Write(text); err != nil {
		return 0, err
	}
	return len(line), nil
}
