package codat

import (
	"encoding/json"
	"time"
)

// Time is a date as Codat writes it: with up to seven fractional digits, or more, or
// none, and at times without a zone, which then is UTC. Decoding one never fails: an
// absent, null or impossible date has a zero time.Time. What is decoded is in UTC.
type Time struct {
	time.Time
	Raw string // the JSON as it came, quotes included; "" when it was absent or null
}

// UnmarshalJSON keeps the JSON and reads the date if it can. The error is always nil.
func (t *Time) UnmarshalJSON(b []byte) error {
	*t = Time{}
	if string(b) != "null" {
		*t = Time{Time: parseTime(text(b)), Raw: string(b)}
	}
	return nil
}

// MarshalJSON writes the date as it came, to the byte; one that did not come from JSON
// in RFC 3339, and the zero Time as null.
func (t Time) MarshalJSON() ([]byte, error) {
	switch {
	case t.Raw != "":
		return []byte(t.Raw), nil
	case t.IsZero():
		return []byte("null"), nil
	}
	return json.Marshal(t.Time)
}

// layouts are the forms of a date that Codat has been seen to write. Fractional digits
// need no mention: time.Parse accepts any number of them behind the seconds.
var layouts = [...]string{
	time.RFC3339,
	"2006-01-02T15:04:05",
	"2006-01-02T15:04:05Z0700",
	"2006-01-02 15:04:05",
	time.DateOnly,
}

// parseTime returns the date in s in UTC, or the zero time.
func parseTime(s string) time.Time {
	if len(s) < len(time.DateOnly) || len(s) > 64 {
		return time.Time{}
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}
