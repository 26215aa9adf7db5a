package flood

import (
	"bytes"
	"slices"
	"testing"
)

func TestMemoryLimit_IsThatOfTheManifest(t *testing.T) {
	t.Parallel()
	limit, err := MemoryLimit("../..")
	if err != nil || limit < 64<<20 || limit%(1<<20) != 0 {
		t.Errorf("MemoryLimit = %d, %v; want some hundreds of MiB", limit, err)
	}
	if _, err := MemoryLimit(t.TempDir()); err == nil {
		t.Error("MemoryLimit without a manifest = nil; want an error")
	}
}

// The flood of header lines is over the limit of 100 lines. Those of slow headers and bodies are within 100 lines and 16 KiB,
// so that the ingress keeps as much as it can.
func TestKinds_SendLinesOnBothSidesOfTheLimit(t *testing.T) {
	t.Parallel()
	for _, kind := range Kinds() {
		head, _, _ := bytes.Cut(kind.begin, []byte("\r\n\r\n"))
		n := bytes.Count(head, []byte("\r\n"))
		switch kind.Name {
		case "header lines":
			names := bytes.Split(head, []byte("\r\n"))[2 : n-1]
			slices.SortFunc(names, bytes.Compare)
			if different := len(slices.CompactFunc(names, bytes.Equal)); n < 6000 || different < 5990 {
				t.Errorf("%d lines with %d names; want 6,000 different ones", n, different)
			}
		case "slow headers", "slow bodies":
			if n < 90 || n > 100 || len(head) < 13<<10 || len(head) > 16<<10 {
				t.Errorf("%s: %d lines of %d bytes; want just less than 100 lines and 16 KiB", kind.Name, n, len(head))
			}
		}
	}
}
