package ingress

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

func word(line string) (string, error) {
	if line == "bad" {
		return "", errors.New("it is bad")
	}
	return line, nil
}

func put(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	file, folder := filepath.Join(dir, "file"), filepath.Join(dir, "folder")
	f := files[string]{setting: "--words", what: "word", names: []string{file, folder}, parse: word}
	steps := []struct {
		name   string
		change func()
		want   string
		says   []string // one for each problem
	}{
		{"nothing is there", func() {}, "", []string{"--words " + file, "--words " + folder}},
		{"the file is", func() { put(t, file, "# first\n a \r\n\nb") }, "a b", []string{"--words " + folder}},
		{"the folder is empty", func() { put(t, filepath.Join(folder, ".hidden"), "h") }, "a b", []string{"no file in it"}},
		{"it has files", func() {
			put(t, filepath.Join(folder, "2"), "d")
			put(t, filepath.Join(folder, "1"), "c")
			put(t, filepath.Join(folder, "sub", "3"), "e")
		}, "a b c d", nil},
		{"one of them is bad", func() { put(t, filepath.Join(folder, "1"), "x\nbad") }, "a b c d", []string{filepath.Join(folder, "1") + ": line 2: it is bad"}},
		{"another is good", func() { put(t, filepath.Join(folder, "2"), "y") }, "a b c y", []string{"it is bad"}},
		{"a new one is bad", func() { put(t, filepath.Join(folder, "4"), "bad") }, "a b c y", []string{"it is bad", "it is bad"}},
		{"both are gone", func() {
			_ = os.Remove(filepath.Join(folder, "1"))
			_ = os.Remove(filepath.Join(folder, "4"))
		}, "a b y", nil},
		{"the folder is gone", func() { _ = os.RemoveAll(folder) }, "a b y", []string{"no such file"}},
		{"the file has only comments", func() { put(t, file, "# later\n") }, "a b y", []string{"no word in it", "no such file"}},
		{"the file is too large", func() { put(t, file, strings.Repeat("x", maxFile+1)) }, "a b y", []string{"larger than 1MiB", "no such file"}},
		{"all is well", func() {
			put(t, file, "z")
			put(t, filepath.Join(folder, "1"), "c")
		}, "z c", nil},
	}
	for _, tt := range steps {
		tt.change()
		values, problems := f.read()
		slices.Sort(values)
		want := strings.Fields(tt.want)
		slices.Sort(want)
		if !slices.Equal(values, want) {
			t.Errorf("%s: read = %q; want %q", tt.name, values, want)
		}
		if len(problems) != len(tt.says) {
			t.Errorf("%s: problems %v; want %d", tt.name, problems, len(tt.says))
			continue
		}
		for i, says := range tt.says {
			if !strings.Contains(problems[i].Error(), says) {
				t.Errorf("%s: %v; want %q in it", tt.name, problems[i], says)
			}
		}
	}
}

// Where nothing says that a file changed, it is read again all the same.
func TestFilesAreReadAgainNowAndThen(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	read := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		watchFiles(ctx, nil, time.Millisecond, zap.NewNop(), func() {
			select {
			case read <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}()
	for range 3 {
		select {
		case <-read:
		case <-time.After(time.Minute):
			t.Fatal("not read again within a minute")
		}
	}
	cancel()
	<-done
}
