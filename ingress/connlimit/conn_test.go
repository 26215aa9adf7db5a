package connlimit

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// A read deadline applies to the read in progress and to the next one, whenever it is set.
func TestConn_KeepsReadDeadlines(t *testing.T) {
	t.Parallel()
	const never = time.Duration(0)
	for name, test := range map[string]struct {
		before, during time.Duration // the deadline, counted from the start of the read; during is set after a second
		want           time.Duration // the duration of the read
	}{
		"set before":           {3 * time.Second, 3 * time.Second, 3 * time.Second},
		"set during the read":  {never, 3 * time.Second, 3 * time.Second},
		"brought forward":      {time.Hour, 3 * time.Second, 3 * time.Second},
		"extended":             {3 * time.Second, time.Hour, time.Hour},
		"past before the read": {-time.Second, time.Hour, 0},
		"past during the read": {time.Hour, -time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				pipe, other := net.Pipe()
				defer other.Close()
				defer pipe.Close()
				c := &conn{Conn: pipe}
				set := func(d time.Duration, began time.Time) {
					deadline := began.Add(d)
					if d == never {
						deadline = time.Time{}
					}
					if err := c.SetReadDeadline(deadline); err != nil {
						t.Error(err)
					}
				}
				for range 2 { // the second read has its own deadline
					began := time.Now()
					if err := c.SetReadDeadline(began.Add(time.Minute)); err != nil {
						t.Error(err)
					}
					set(test.before, began)
					later := time.AfterFunc(time.Second, func() { set(test.during, began) })
					n, err := c.Read(make([]byte, 1))
					if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took != test.want {
						t.Errorf("Read = %d, %v after %v; want os.ErrDeadlineExceeded after %v", n, err, took, test.want)
					}
					later.Stop()
					if err := c.SetDeadline(time.Time{}); err != nil {
						t.Error(err)
					}
					go func() { _, _ = other.Write([]byte("x")) }()
					if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
						t.Errorf("Read = %d, %v; want the byte that was written", n, err)
					}
				}
			})
		})
	}
}
