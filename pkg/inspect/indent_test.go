package inspect_test

import (
	"bytes"
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/inspect"
)

func TestIndentIsBounded(t *testing.T) {
	// json.Indent makes 10 GB of this MiB.
	deep := strings.Repeat("[", 9_990) + strings.Repeat("1,", 500_000) + "1" + strings.Repeat("]", 9_990)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, ok := inspect.Indent([]byte(deep), "", 1<<20); ok {
		t.Error("a body of which 10 GB are made is taken")
	}
	runtime.ReadMemStats(&after)
	if made := after.TotalAlloc - before.TotalAlloc; made > 16<<20 {
		t.Errorf("%d bytes were allocated for it", made)
	}
	if got, ok := inspect.Indent([]byte(`{"a":["\"]]",2]}`), "", 1<<10); !ok || got != "{\n  \"a\": [\n    \"\\\"]]\",\n    2\n  ]\n}" {
		t.Errorf("got %q, %t", got, ok)
	}
	if _, ok := inspect.Indent([]byte("{"), "", 1<<10); ok {
		t.Error("half an object is taken")
	}
}

func FuzzIndent(f *testing.F) {
	for _, body := range []string{`{"a":["]",{}],"b":1}`, "[[[1,2,[],{}]]]", `"\\\""`, " [ 1 , 2 ] ", "[", "]"} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		const most = 1 << 14
		got, ok := inspect.Indent(body, "  ", most)
		if ok && len(got) > most {
			t.Errorf("%d bytes of %d", len(got), most)
		}
		var wanted bytes.Buffer
		if ok && (json.Indent(&wanted, body, "  ", "  ") != nil || wanted.String() != got) {
			t.Errorf("got %q, want %q", got, wanted.String())
		}
	})
}
