package watchfile

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func word(line string) (string, error) {
	if line == "bad" {
		return "", errors.New("bad word")
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

func TestLines_KeepTheValuesOfAFileThatCannotBeRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, folder := filepath.Join(dir, "file"), filepath.Join(dir, "folder")
	l := Lines[string]{Setting: "--words", Value: "word", Names: []string{file, folder}, Parse: word}
	steps := []struct {
		name     string
		change   func()
		want     string
		problems []string // a part of each
	}{
		{"no file exists", func() {}, "", []string{"--words " + file, "--words " + folder}},
		{"the file exists", func() { put(t, file, "# first\n a \r\n\nb") }, "a b", []string{"--words " + folder}},
		{"the folder is empty", func() { put(t, filepath.Join(folder, ".hidden"), "h") }, "a b", []string{"contains no files"}},
		{"the folder has files", func() {
			put(t, filepath.Join(folder, "2"), "d")
			put(t, filepath.Join(folder, "1"), "c")
			put(t, filepath.Join(folder, "sub", "3"), "e")
		}, "a b c d", nil},
		{"one file has a bad line", func() { put(t, filepath.Join(folder, "1"), "x\nbad") }, "a b c d", []string{filepath.Join(folder, "1") + ": line 2: bad word"}},
		{"another file changes", func() { put(t, filepath.Join(folder, "2"), "y") }, "a b c y", []string{"bad word"}},
		{"a new file has a bad line", func() { put(t, filepath.Join(folder, "4"), "bad") }, "a b c y", []string{"bad word", "bad word"}},
		{"the bad files are removed", func() {
			_ = os.Remove(filepath.Join(folder, "1"))
			_ = os.Remove(filepath.Join(folder, "4"))
		}, "a b y", nil},
		{"the folder is removed", func() { _ = os.RemoveAll(folder) }, "a b y", []string{"no such file"}},
		{"the file has only comments", func() { put(t, file, "# later\n") }, "a b y", []string{"contains no word", "no such file"}},
		{"the file is too large", func() { put(t, file, strings.Repeat("x", maxFile+1)) }, "a b y", []string{"larger than 1MiB", "no such file"}},
		{"the file is in UTF-16", func() { put(t, file, "\xff\xfea\x00") }, "a b y", []string{"save it in UTF-8", "no such file"}},
		{"the file begins with a byte order mark", func() { put(t, file, "\uFEFF# words\na\nb\n") }, "a b y", []string{"no such file"}},
		{"all files can be read", func() {
			put(t, file, "z")
			put(t, filepath.Join(folder, "1"), "c")
		}, "z c", nil},
	}
	for _, tt := range steps {
		tt.change()
		values, problems := l.Read()
		slices.Sort(values)
		want := strings.Fields(tt.want)
		slices.Sort(want)
		if !slices.Equal(values, want) {
			t.Errorf("%s: Read = %q; want %q", tt.name, values, want)
		}
		if len(problems) != len(tt.problems) {
			t.Errorf("%s: problems %v; want %d", tt.name, problems, len(tt.problems))
			continue
		}
		for i, want := range tt.problems {
			if !strings.Contains(problems[i].Error(), want) {
				t.Errorf("%s: %v; want %q in it", tt.name, problems[i], want)
			}
		}
	}
}
