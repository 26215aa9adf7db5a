package signature_test

import (
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/signature"
)

func TestIDTime(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"msg_2ePzjdCVZDpHBrxqQDrBTJ2v8wt": "2024-03-30T17:52:17Z",
		"msg_2fQ1V7nC5B0c3ZLkT9yEwXaJmRd": "2024-04-21T16:55:08Z",
		"msg_p5jXN8AQM9LWM0D4loKWxJek":    "", // 24 characters, as in the examples of Standard Webhooks
		"msg_zzzzzzzzzzzzzzzzzzzzzzzzzzz": "", // more than 20 bytes
		"msg_000000000000000000000000001": "", // in 2014
		"msg_2ePzjdCVZDpHBrxq-DrBTJ2v8wt": "",
		"2ePzjdCVZDpHBrxqQDrBTJ2v8wt":     "",
		"":                                "",
	} {
		got := ""
		if at, ok := signature.IDTime(id); ok {
			got = at.Format(time.RFC3339)
		}
		if got != want {
			t.Errorf("IDTime(%q) = %q; want %q", id, got, want)
		}
	}
}

func TestIDTime_OfANewID(t *testing.T) {
	t.Parallel()
	before := time.Now().Truncate(time.Second)
	id := signature.NewID()
	if at, ok := signature.IDTime(id); !ok || at.Before(before) || at.After(time.Now()) {
		t.Errorf("IDTime(%q) = %v, %v; want the time at which it was made, since %v", id, at, ok, before)
	}
}

func FuzzIDTime(f *testing.F) {
	f.Add("msg_2ePzjdCVZDpHBrxqQDrBTJ2v8wt")
	f.Add("msg_" + strings.Repeat("z", 27))
	f.Fuzz(func(t *testing.T, id string) {
		if at, ok := signature.IDTime(id); ok && (at.Year() < 2020 || at.Year() > 2150) {
			t.Errorf("IDTime(%q) = %v; want a time of 32 bits", id, at)
		}
	})
}
