// Package watchfile reads values from files and folders, and calls a function when they may have changed. It follows
// renames and symbolic links, so that a file that is replaced, or a Kubernetes volume, is seen like one that is written.
package watchfile

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

const (
	// PollInterval is how often files should be read when no change is reported: not every file system reports changes.
	PollInterval = 30 * time.Second
	// settleDelay is the time between the first report of a change and the call, in which a change completes.
	settleDelay = 100 * time.Millisecond
)

// Watch calls changed at once, then when one of the files or folders may have changed, and at every interval, until ctx
// ends. It never calls changed twice at a time. When the operating system cannot watch files, it logs a warning and
// calls at the interval only.
func Watch(ctx context.Context, names []string, interval time.Duration, log *zap.Logger, changed func()) {
	var events <-chan fsnotify.Event
	var problems <-chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("files are not watched, only read at an interval", zap.Duration("interval", interval), zap.Error(err))
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
	changed() // a file may have changed before it was watched
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			if settled == nil {
				settled = time.After(settleDelay)
			}
			continue
		case err := <-problems: // events may have been lost
			log.Warn("watch files", zap.Error(err))
		case <-settled:
			settled = nil
		case <-tick.C:
		}
		watch() // before the call: a change after it is an event
		changed()
	}
}

// watchFolders watches the folders of the files, because a file is replaced by a rename over it, and the folders of
// what symbolic links point to. Kubernetes replaces the link ..data in the folder of a volume. Errors are ignored: what
// cannot be watched, or does not exist yet, is read at the interval and watched again.
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
