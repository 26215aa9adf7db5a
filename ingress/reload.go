package ingress

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/tlsfiles"
	"github.com/headgate/headgate/pkg/watchfile"
)

// refresh reads the files of all sources and uses their keys and credentials from now on. A file that cannot be read
// keeps its previous values and is one of the problems. changed is called for each source whose keys or credentials
// changed.
func refresh(sources []*source, changed func(*source)) (problems []error) {
	keys := make([][]signature.Key, len(sources))
	for i, s := range sources {
		read, wrong := s.readKeys()
		problems = append(problems, wrong...)
		if len(read) <= maxKeys {
			keys[i] = read
		}
	}
	problems = append(problems, rejectSharedKeys(sources, keys)...)
	for i, s := range sources {
		values, wrong := s.valueFiles.Read()
		problems = append(problems, wrong...)
		if s.use(keys[i], slices.Concat(s.values, values)) && changed != nil {
			changed(s)
		}
	}
	return problems
}

// rejectSharedKeys drops the new keys of a source when one of them is also a key of another source. The key decides which
// source an event belongs to: with a shared key the path would, which is not signed. The source that had the key before
// keeps it until its files say otherwise; a key that is new to both belongs to the first source.
func rejectSharedKeys(sources []*source, keys [][]signature.Key) (problems []error) {
	for again := true; again; { // a source that keeps its previous keys may share one of these with the new keys of another
		again = false
		for i, s := range sources {
			key, owner := sharedKey(sources, keys, i)
			if owner == nil {
				continue
			}
			problems = append(problems, fmt.Errorf("%s: the key %s is also a key of source %s: give each source the keys of its own endpoints",
				s.setting("--secret-file", "secret_files"), key, owner.Name))
			keys[i], again = nil, true
		}
	}
	return problems
}

// sharedKey returns the fingerprint of a new key of source i that belongs to another source, and that source, or nil.
func sharedKey(sources []*source, keys [][]signature.Key, i int) (key string, owner *source) {
	for _, k := range keys[i] {
		key = k.Fingerprint()
		if slices.Contains(sources[i].fingerprints, key) {
			continue
		}
		for j, other := range sources {
			has := slices.Contains(other.fingerprints, key)
			keeps := has && len(keys[j]) == 0
			gets := slices.ContainsFunc(keys[j], func(k signature.Key) bool { return k.Fingerprint() == key })
			if j != i && (keeps || gets && (has || j < i)) {
				return key, other
			}
		}
	}
	return "", nil
}

// use replaces the keys and credentials, and reports whether they changed. Without new keys the previous ones stay in use;
// so do the previous credentials, so that a check that was configured is never switched off.
func (s *source) use(keys []signature.Key, values []credential) (changed bool) {
	if len(keys) > 0 {
		s.verifier.SetKeys(keys...)
		if prints := s.verifier.Keys(); !slices.Equal(prints, s.fingerprints) {
			s.fingerprints, changed = prints, true
		}
	}
	if before := s.credentials.list.Load(); before == nil || len(values) > 0 && !slices.Equal(*before, values) {
		s.credentials.set(values)
		changed = true
	}
	return changed
}

// A reloader reads the files of keys, credentials and certificates again when they change.
type reloader struct {
	sources      []*source
	certificates *tlsfiles.Certificates // nil without TLS
	metrics      *serverMetrics
	log          *zap.Logger

	mu       sync.Mutex
	problems []error
}

// paths returns all files and folders.
func (r *reloader) paths() []string {
	var names []string
	for _, s := range r.sources {
		names = slices.Concat(names, s.SecretFiles, s.AuthorizationFiles)
	}
	if c := r.certificates; c != nil {
		names = append(names, c.Cert, c.Key)
		if c.ClientCA != "" {
			names = append(names, c.ClientCA)
		}
	}
	return names
}

// run reads the files when they change, until ctx ends.
func (r *reloader) run(ctx context.Context) {
	if names := r.paths(); len(names) > 0 {
		watchfile.Watch(ctx, names, watchfile.PollInterval, r.log, r.reload)
	}
}

// reload reads all files, and logs what changed and each new problem.
func (r *reloader) reload() {
	problems := refresh(r.sources, func(s *source) {
		s.handler.metrics.setKeys(s.fingerprints)
		r.log.Info("files reloaded", zap.String("source", string(s.Name)),
			zap.Strings("keys", s.fingerprints), zap.Int("authorizations", s.credentials.count()))
	})
	if c := r.certificates; c != nil {
		switch changed, err := c.Load(); {
		case err != nil:
			problems = append(problems, err)
		case changed:
			r.metrics.setCertificateEnd(c.Leaf().NotAfter)
			r.log.Info("certificate reloaded", zap.Time("ends", c.Leaf().NotAfter))
		}
		if err := c.Check(time.Now()); err != nil {
			problems = append(problems, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, problem := range problems {
		known := slices.ContainsFunc(r.problems, func(before error) bool { return before.Error() == problem.Error() })
		if !known {
			r.log.Error("a file cannot be used: its previous content stays in use", zap.Error(problem))
		}
	}
	if len(problems) == 0 && len(r.problems) > 0 {
		r.log.Info("all files can be used again")
	}
	r.problems = problems
	r.metrics.fileProblems.Set(float64(len(problems)))
}

// check returns the problems as a warning: the ingress can receive in spite of them.
func (r *reloader) check(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return process.Warning(errors.Join(r.problems...))
}
