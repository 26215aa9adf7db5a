package codat_test

import (
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
)

func TestMessageTime_IsThatOfTheKSUID(t *testing.T) {
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
		if at, ok := codat.MessageTime(id); ok {
			got = at.Format(time.RFC3339)
		}
		if got != want {
			t.Errorf("MessageTime(%q) = %q; want %q", id, got, want)
		}
	}
}

func FuzzMessageTime(f *testing.F) {
	f.Add("msg_2ePzjdCVZDpHBrxqQDrBTJ2v8wt")
	f.Add("msg_" + strings.Repeat("z", 27))
	f.Fuzz(func(t *testing.T, id string) {
		if at, ok := codat.MessageTime(id); ok && (at.Year() < 2020 || at.Year() > 2150) {
			t.Errorf("MessageTime(%q) = %v; want a time of 32 bits", id, at)
		}
	})
}

func TestAttemptAfter(t *testing.T) {
	t.Parallel()
	for after, want := range map[string]int{
		"-2m": 0, "-1s": 1, "0s": 1, "1s": 1, "5s": 2, "1m": 2, "5m5s": 3, "6m30s": 3, "35m5s": 4, "42m": 4,
		"2h35m5s": 5, "7h35m5s": 6, "17h35m5s": 7, "27h35m5s": 8, "33h": 8, "40h": 0,
	} {
		d, err := time.ParseDuration(after)
		if err != nil {
			t.Fatal(err)
		}
		if got := codat.AttemptAfter(d); got != want {
			t.Errorf("AttemptAfter(%s) = %d; want %d", after, got, want)
		}
	}
}
