package stream

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/codat"
)

func TestParseSpec_ReadsWhatIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := WorkerSpec{
			Name:          rapid.StringMatching(`[a-z]([a-z0-9-]{0,29}[a-z0-9])?`).Draw(t, "name"),
			Types:         []codat.Pattern{rapid.SampledFrom([]codat.Pattern{">", "*.write.successful", "invoices.write.successful"}).Draw(t, "type")},
			AckWait:       time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "wait")),
			MaxAckPending: rapid.IntRange(0, 5000).Draw(t, "pending"),
			Begin:         rapid.SampledFrom([]Begin{BeginNew(), BeginAll(), BeginFrom(time.Unix(1e9, 0).UTC())}).Draw(t, "begin"),
		}
		if rapid.Bool().Draw(t, "state") {
			w.State = []string{"a", "b-2"}
			if rapid.Bool().Draw(t, "state max age") {
				w.StateMaxAge = map[string]time.Duration{"a": time.Hour, "b-2": 0}
			}
		}
		if rapid.Bool().Draw(t, "reads") {
			w.Reads = []string{"quota"}
		}
		if rapid.Bool().Draw(t, "requests") {
			w.Requests = []string{"plans.*", "books.close"}
		}
		text, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseSpec(text)
		if err != nil || !reflect.DeepEqual(got, w) {
			t.Fatalf("ParseSpec(%s) = %+v, %v; want %+v", text, got, err, w)
		}
	})
}

func TestParseSpec_RefusesWhatIsNoSpec(t *testing.T) {
	for text, says := range map[string]string{
		"":    "not what a worker's --spec prints",
		"[1]": "not what a worker's --spec prints",
		`{"name":"a","types":[">"]} {"name":"b"}`: "something follows the spec of a",
		`{"name":"a","types":[">"],"replicas":3}`: "replicas",
		`{"name":"a"}`:                                                         "types",
		`{"name":"A","types":[">"]}`:                                           "small letter",
		`{"name":"a","types":["a.>.b"]}`:                                       "a.>.b",
		`{"name":"a","types":[">"],"state":["claims"]}`:                        "claims",
		`{"name":"a","types":[">"],"ack_wait":"60"}`:                           "ack_wait",
		`{"name":"a","types":[">"],"begin":"yesterday"}`:                       "begin",
		`{"name":"a","types":[">"],"state":["s"],"state_max_age":{"s":"90d"}}`: "state_max_age of s",
		`{"name":"a","types":[">"],"state":["s"],"state_max_age":{"r":"90h"}}`: `no worker writes a state "r"`,
		`{"name":"a","types":[">"],"max_ack_pending":-1}`:                      "must not be negative",
		`{"name":"a","types":[">"],"state":["x.>","$KV.y"]}`:                   "small letter",
		`{"name":"a","types":[">"],"reads":["x.>"]}`:                           "small letter",
		`{"name":"a","types":[">"],"requests":["plans"]}`:                      "two names",
		`{"name":"a","types":[">"],"requests":["*.submit"]}`:                   "two names",
		`{"name":"a","types":[">"],"requests":["plans.>"]}`:                    "two names",
		`{"name":"a","types":[">"],"requests":["p.a q"]}`:                      "two names",
		`{"name":"a","types":[">"],"requests":["events.*"]}`:                   "Headgate uses the subjects of events",
	} {
		if _, err := ParseSpec([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("ParseSpec(%s): %v; want an error with %q", text, err, says)
		}
	}
}
