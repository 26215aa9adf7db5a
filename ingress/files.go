package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

const (
	// recheck is how often files are read when nothing says that they changed: not every file system does.
	recheck = 30 * time.Second
	// settling is how long a change may still be going on before the files are read.
	settling = 100 * time.Millisecond
	// maxFile is more than any file of values holds, so that a wrong name costs no memory.
	maxFile = 1 << 20
)

// files are values in files, one on a line; empty lines and those that begin with # are passed over. A name may be
// that of a folder: then it is every regular file in it whose name does not begin with a dot.
type files[T any] struct {
	setting string // that gave the names, for errors
	what    string // they hold, for errors
	names   []string
	parse   func(line string) (T, error)
	good    map[string]map[string][]T // by name and file: what was read last without an error
}

// read reads all files. What cannot be read now is as it was when it could be; each of problems says what is wrong,
// and its cure, and nothing of what the files hold.
func (f *files[T]) read() (values []T, problems []error) {
	good := map[string]map[string][]T{}
	for _, name := range f.names {
		good[name] = map[string][]T{}
		members, err := membersOf(name)
		if err != nil {
			problems = append(problems, f.problem(name, err))
			good[name] = f.good[name]
			for _, kept := range f.good[name] {
				values = append(values, kept...)
			}
			continue
		}
		for _, member := range members {
			found, err := readLines(member, f.what, f.parse)
			if err != nil {
				problems = append(problems, f.problem(member, err))
				found = f.good[name][member]
			}
			good[name][member] = found
			values = append(values, found...)
		}
	}
	f.good = good
	return values, problems
}

// problem says what is wrong with a file. A name with a space in it may be a value that belongs into a file: it is
// not shown.
func (f *files[T]) problem(name string, err error) error {
	if !strings.Contains(name, " ") {
		return fmt.Errorf("%s %s: %w", f.setting, name, err)
	}
	var at *os.PathError // has the name too
	if errors.As(err, &at) {
		err = at.Err
	}
	return fmt.Errorf("%s: a name that is not shown, because it has a space in it: %w: give the name of a file, and in that file each %s on a line", f.setting, err, f.what)
}

// membersOf are the files that a name stands for.
func membersOf(name string) ([]string, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case info.Mode().IsRegular():
		return []string{name}, nil
	case !info.IsDir():
		return nil, errors.New("neither a file nor a folder")
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var members []string
	for _, entry := range entries {
		member := filepath.Join(name, entry.Name())
		// Kubernetes puts links to files into a folder, and what they lead to under names with a dot.
		if info, err := os.Stat(member); err == nil && info.Mode().IsRegular() && !strings.HasPrefix(entry.Name(), ".") {
			members = append(members, member)
		}
	}
	if members == nil {
		return nil, errors.New("no file in it")
	}
	return members, nil
}

func readLines[T any](name, what string, parse func(string) (T, error)) ([]T, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("larger than %s: it is another file", Size(maxFile))
	}
	var values []T
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		value, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		values = append(values, value)
	}
	if values == nil {
		return nil, fmt.Errorf("no %s in it: give one on a line", what)
	}
	return values, nil
}

// watchFiles calls changed at once, when one of the names may lead to something else than before, and every now and
// then, until ctx ends.
func watchFiles(ctx context.Context, names []string, every time.Duration, log *zap.Logger, changed func()) {
	var events <-chan fsnotify.Event
	var problems <-chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("files are not watched, only read again", zap.Duration("every", every), zap.Error(err))
	} else {
		defer watcher.Close()
		events, problems = watcher.Events, watcher.Errors
	}
	watch := func() {
		if watcher != nil {
			watchFolders(watcher, names)
		}
	}
	watch()
	changed() // what was written before
	tick := time.NewTicker(every)
	defer tick.Stop()
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			if settled == nil {
				settled = time.After(settling)
			}
			continue
		case err := <-problems: // events may have been lost
			log.Warn("watch files", zap.Error(err))
		case <-settled:
			settled = nil
		case <-tick.C:
		}
		watch() // before the files are read: what changes after that is an event
		changed()
	}
}

// watchFolders watches the folders of the files, because whoever replaces a file renames another one over it, and the
// folders to which links lead. Kubernetes replaces the link ..data in the folder itself. What cannot be watched, or is
// not there now, is read again all the same, later.
func watchFolders(watcher *fsnotify.Watcher, names []string) {
	for _, name := range names {
		targets := []string{name}
		if target, err := filepath.EvalSymlinks(name); err == nil && target != name {
			targets = append(targets, target)
		}
		for _, target := range targets {
			_ = watcher.Add(filepath.Dir(target))
			if info, err := os.Stat(target); err == nil && info.IsDir() {
				_ = watcher.Add(target)
			}
		}
	}
}
