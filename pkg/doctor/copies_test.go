package doctor

import (
	"testing"

	"github.com/headgate/headgate/pkg/inspect"
)

// copies are servers with a copy each of one stream.
func copies(all ...inspect.Copy) (servers []inspect.Server) {
	for i, c := range all {
		c.Stream = "CODAT"
		servers = append(servers, inspect.Server{Monitor: string(rune('a' + i)), Copies: []inspect.Copy{c}})
	}
	return servers
}

func TestDifferingCopies(t *testing.T) {
	t.Parallel()
	whole := inspect.Copy{Messages: 10, Bytes: 1000, FirstSequence: 1, LastSequence: 10}
	later := inspect.Copy{Messages: 12, Bytes: 1200, FirstSequence: 1, LastSequence: 12}
	behind := inspect.Copy{Messages: 8, Bytes: 800, FirstSequence: 1, LastSequence: 8}
	gap := inspect.Copy{Messages: 9, Bytes: 900, FirstSequence: 1, LastSequence: 10, Deleted: 1}
	gapLater := inspect.Copy{Messages: 11, Bytes: 1100, FirstSequence: 1, LastSequence: 12, Deleted: 1}
	flipped := inspect.Copy{Messages: 10, Bytes: 990, FirstSequence: 1, LastSequence: 10}
	for _, tt := range []struct {
		name        string
		now, before []inspect.Server
		want        copyRange
	}{
		{"the same", copies(whole, whole), nil, copyRange{}},
		{"one alone", copies(whole), nil, copyRange{}},
		{"stored in between", copies(whole, later), copies(behind, behind), copyRange{}},
		{"one stays behind", copies(whole, behind), copies(whole, behind), copyRange{messages: 2, bytes: 200}},
		{"a gap", copies(whole, gap), copies(whole, gap), copyRange{messages: 1, bytes: 100, deleted: 1}},
		{"a gap and one that stays behind", copies(gap, later), copies(gap, later), copyRange{messages: 3, bytes: 300, deleted: 1}},
		{"a gap while events are stored", copies(whole, gap, whole), copies(behind, behind, behind), copyRange{messages: 1, bytes: 100, deleted: 1}},
		{"read at other times while events are stored", copies(whole, gapLater), copies(behind, behind), copyRange{}},
		{"other bytes", copies(whole, flipped), copies(whole, flipped), copyRange{bytes: 10}},
		{"an empty copy while events are stored is behind, which the leader says", copies(whole, inspect.Copy{}), copies(behind, inspect.Copy{}), copyRange{}},
	} {
		got := copyRange{}
		for _, d := range differingCopies(tt.now, tt.before) {
			d.stream = ""
			got = d
		}
		if got != tt.want {
			t.Errorf("%s: %+v; want %+v", tt.name, got, tt.want)
		}
	}
	if kept := both([]copyRange{{"A", 2, 0, 0}, {"B", 1, 5, 0}}, []copyRange{{"B", 3, 0, 1}}); len(kept) != 1 || kept[0] != (copyRange{"B", 1, 0, 0}) {
		t.Errorf("both = %+v; want what is in both", kept)
	}
}
