package audit

import (
	"testing"

	"github.com/headgate/headgate/workers"
)

func TestJudge(t *testing.T) {
	// The consumer has acknowledged up to 10, delivered up to 20, and will deliver from 30 on.
	p := position{floor: 10, delivered: 20, next: 30}
	const acknowledged, delivered, passed, ahead = 5, 15, 25, 35
	tests := []struct {
		name string
		e    evidence
		want verdict
	}{
		{"done", evidence{its: true, sequence: acknowledged, state: workers.Done}, verdict{standing: Done}},
		{"done, and its ack was lost", evidence{its: true, sequence: delivered, state: workers.Done}, verdict{standing: Done}},
		{"done before the worker changed what it takes", evidence{sequence: acknowledged, state: workers.Done}, verdict{standing: Done}},
		{"done, and its parked copy is not acknowledged yet", evidence{its: true, sequence: acknowledged, state: workers.Done, copy: true}, verdict{standing: Done}},
		{"done and dead", evidence{its: true, sequence: acknowledged, state: workers.Done, letter: true}, verdict{wrong: DoneAndDead}},
		{"dead", evidence{its: true, sequence: acknowledged, state: workers.Dead, letter: true}, verdict{standing: Dead}},
		{"dead without a letter", evidence{its: true, sequence: acknowledged, state: workers.Dead}, verdict{wrong: NoLetter}},
		{"parked", evidence{its: true, sequence: acknowledged, state: workers.Parked, copy: true}, verdict{standing: Parked}},
		{"parked without a copy", evidence{its: true, sequence: acknowledged, state: workers.Parked}, verdict{wrong: NoCopy}},
		{"waiting for another delivery", evidence{its: true, sequence: delivered, state: workers.Waiting}, verdict{standing: Waiting, out: true}},
		{"running", evidence{its: true, sequence: delivered, state: workers.Running}, verdict{standing: Waiting, out: true}},
		{"burying", evidence{its: true, sequence: delivered, state: workers.Burying, letter: true}, verdict{standing: Waiting, out: true}},
		{"running as its parked copy", evidence{its: true, sequence: acknowledged, state: workers.Running, copy: true}, verdict{standing: Waiting}},
		{"waiting after the consumer went back", evidence{its: true, sequence: ahead, state: workers.Waiting}, verdict{standing: Waiting}},
		{"waiting, and acknowledged", evidence{its: true, sequence: acknowledged, state: workers.Waiting}, verdict{wrong: Stranded}},
		{"running, and acknowledged", evidence{its: true, sequence: acknowledged, state: workers.Running}, verdict{wrong: Stranded}},
		{"burying, and acknowledged", evidence{its: true, sequence: acknowledged, state: workers.Burying}, verdict{wrong: Stranded}},
		{"waiting, and passed over", evidence{its: true, sequence: passed, state: workers.Waiting}, verdict{wrong: Stranded}},
		{"not begun, and to be delivered", evidence{its: true, sequence: ahead}, verdict{standing: ToCome}},
		{"not begun, and delivered", evidence{its: true, sequence: delivered}, verdict{standing: ToCome, out: true}},
		{"acknowledged without a claim", evidence{its: true, sequence: acknowledged}, verdict{wrong: Skipped}},
		{"passed over", evidence{its: true, sequence: passed}, verdict{wrong: Skipped}},
		{"without a claim, and its copy will run", evidence{its: true, sequence: acknowledged, copy: true}, verdict{standing: ToCome}},
		{"not the worker's", evidence{sequence: acknowledged}, verdict{standing: foreign}},
		{"not the worker's any more, and its copy will run", evidence{sequence: acknowledged, copy: true}, verdict{standing: Parked}},
		{"a state of another version", evidence{its: true, sequence: acknowledged, state: "dreaming"}, verdict{wrong: UnknownState}},
	}
	for _, tt := range tests {
		if got := judge(tt.e, p); got != tt.want {
			t.Errorf("%s: judge(%+v) = %+v; want %+v", tt.name, tt.e, got, tt.want)
		}
	}
}

// What moved between two looks is no exception, and what stayed is.
func TestConfirm(t *testing.T) {
	at := func(kind Kind, key string, revision uint64) finding {
		return finding{Exception: Exception{Kind: kind}, key: key, revision: revision, judged: true}
	}
	out := func(keys ...string) map[string]uint64 {
		m := map[string]uint64{}
		for _, k := range keys {
			m[k] = 7
		}
		return m
	}
	tests := []struct {
		name          string
		first, second look
		want          []Kind
	}{
		{"found twice", look{found: []finding{at(NoCopy, "a", 1)}}, look{found: []finding{at(NoCopy, "a", 1)}}, []Kind{NoCopy}},
		{"found twice, and written in between", look{found: []finding{at(NoCopy, "a", 1)}}, look{found: []finding{at(NoCopy, "a", 2)}}, nil},
		{"found once, then another", look{found: []finding{at(NoCopy, "a", 1)}}, look{found: []finding{at(NoCopy, "b", 1)}}, nil},
		{"found twice as different things", look{found: []finding{at(NoCopy, "a", 1)}}, look{found: []finding{at(Stranded, "a", 1)}}, nil},
		{"more out than acks are waited for", look{out: out("a", "b")}, look{out: out("a", "b"), acks: 1}, []Kind{Acknowledged}},
		{"as many out as acks are waited for", look{out: out("a", "b")}, look{out: out("a", "b"), acks: 2}, nil},
		{"others out than before", look{out: out("a", "b")}, look{out: out("c", "d"), acks: 1}, nil},
	}
	for _, tt := range tests {
		tt.second.confirm(tt.first)
		var got []Kind
		for _, f := range tt.second.found {
			got = append(got, f.Kind)
		}
		if len(got) != len(tt.want) || len(got) == 1 && got[0] != tt.want[0] {
			t.Errorf("%s: confirm = %q; want %q", tt.name, got, tt.want)
		}
	}
}
