package stream_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/stream"
)

func TestBatchSize_FollowsTheLink(t *testing.T) {
	t.Parallel()
	const first = 128 << 10
	tests := []struct {
		name string
		n    int
		took time.Duration
		want int
	}{
		{"a fast batch doubles it", first, time.Millisecond, 2 * first},
		{"a batch in no time", first, 0, 2 * first},
		{"a batch of two seconds halves it", first, 2 * time.Second, first / 2},
		{"one that was cut off with a part", first / 4, 2 * time.Second, first / 8},
		{"one that was cut off with nothing", 0, 10 * time.Second, first / 8},
		{"the end of a stream says nothing", 100, time.Millisecond, first},
	}
	for _, tt := range tests {
		var b stream.BatchSize
		if b.Received(tt.n, tt.took); b.Bytes() != tt.want {
			t.Errorf("%s: %d bytes; want %d", tt.name, b.Bytes(), tt.want)
		}
	}
	var b stream.BatchSize
	for range 20 {
		b.Received(b.Bytes(), time.Millisecond)
	}
	if b.Bytes() != 4<<20 {
		t.Errorf("on a fast link it is %d; want 4 MiB", b.Bytes())
	}
	for range 20 {
		b.Received(0, 10*time.Second)
	}
	if b.Bytes() != 16<<10 {
		t.Errorf("on a link that carries nothing it is %d; want 16 KiB", b.Bytes())
	}
}
