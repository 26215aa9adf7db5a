package watchfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxFile is the largest file that is read, in bytes. It is more than any file of values needs; it limits the memory
// that a wrong name costs.
const maxFile = 1 << 20

// Lines are values in files, one per line. Empty lines and lines that begin with # are skipped. A name may be that of a
// folder: then every regular file in it is read whose name does not begin with a dot. Lines is not safe for concurrent use.
type Lines[T any] struct {
	Setting string                       // the setting that gave the names, for errors
	Value   string                       // what one line holds, as in "key", for errors
	Names   []string                     // files and folders
	Parse   func(line string) (T, error) // its error must not contain the line

	last map[string]map[string][]T // by name and file: the values of the last read without an error
}

// Read reads all files and folders. A file or folder that cannot be read keeps the values of its last successful read.
// Each problem names the file and the cure, and never a value.
func (l *Lines[T]) Read() (values []T, problems []error) {
	last := map[string]map[string][]T{}
	for _, name := range l.Names {
		last[name] = map[string][]T{}
		files, err := listFiles(name)
		if err != nil {
			problems = append(problems, l.problem(name, err))
			last[name] = l.last[name]
			for _, kept := range l.last[name] {
				values = append(values, kept...)
			}
			continue
		}
		for _, file := range files {
			read, err := l.readFile(file)
			if err != nil {
				problems = append(problems, l.problem(file, err))
				read = l.last[name][file]
			}
			last[name][file] = read
			values = append(values, read...)
		}
	}
	l.last = last
	return values, problems
}

// problem adds the setting and the name to an error. A name with a space in it may be a value that was given in place
// of a file name: it is not shown.
func (l *Lines[T]) problem(name string, err error) error {
	if !strings.Contains(name, " ") {
		return fmt.Errorf("%s %s: %w", l.Setting, name, err)
	}
	var pathError *os.PathError // its text contains the name
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return fmt.Errorf("%s: %w: the name is not shown because it contains a space: give the name of a file that has one %s per line", l.Setting, err, l.Value)
}

// listFiles returns the file of that name, or the regular files of the folder of that name.
func listFiles(name string) ([]string, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case info.Mode().IsRegular():
		return []string{name}, nil
	case !info.IsDir():
		return nil, errors.New("not a regular file or a folder")
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		file := filepath.Join(name, entry.Name())
		// Kubernetes puts symbolic links into the folder of a volume, and their targets under names with a dot.
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && !strings.HasPrefix(entry.Name(), ".") {
			files = append(files, file)
		}
	}
	if files == nil {
		return nil, errors.New("the folder contains no files")
	}
	return files, nil
}

// ReadFile returns the text of a file without the byte order mark that some editors write before it. A file in UTF-16 and
// one of over 1 MiB are errors.
func ReadFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxFile:
		return nil, errors.New("larger than 1MiB: check that it is the right file")
	case bytes.HasPrefix(text, []byte("\xff\xfe")), bytes.HasPrefix(text, []byte("\xfe\xff")):
		return nil, errors.New("the text is in UTF-16: save it in UTF-8")
	}
	return bytes.TrimPrefix(text, []byte("\uFEFF")), nil
}

func (l *Lines[T]) readFile(name string) ([]T, error) {
	text, err := ReadFile(name)
	if err != nil {
		return nil, err
	}
	var values []T
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		value, err := l.Parse(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		values = append(values, value)
	}
	if values == nil {
		return nil, fmt.Errorf("contains no %s: write one %[1]s per line", l.Value)
	}
	return values, nil
}
