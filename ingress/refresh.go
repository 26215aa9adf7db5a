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
)

// refresh reads the files of all sources and lets what they say count from now on. What cannot be read stays as it
// was, and is one of the problems. changed is called for a source that has other keys or values than before.
func refresh(sources []*source, changed func(*source)) (problems []error) {
	keys := make([][]signature.Key, len(sources))
	for i, s := range sources {
		read, wrong := s.readKeys()
		problems = append(problems, wrong...)
		if len(read) <= maxKeys {
			keys[i] = read
		}
	}
	problems = append(problems, partKeys(sources, keys)...)
	for i, s := range sources {
		values, wrong := s.valueFiles.read()
		problems = append(problems, wrong...)
		if s.apply(keys[i], slices.Concat(s.values, values)) && changed != nil {
			changed(s)
		}
	}
	return problems
}

// partKeys takes the new keys of a source away when one of them is another's too. The key is what tells whose an event is:
// with one key for two, the path would, and nobody signs that. Who had the key before keeps it, until its files say
// otherwise; else the first has it.
func partKeys(sources []*source, keys [][]signature.Key) (problems []error) {
	for again := true; again; { // who loses its new keys keeps those before, and one of these may be another's new one
		again = false
		for i, s := range sources {
			key, owner := shared(sources, keys, i)
			if owner == nil {
				continue
			}
			problems = append(problems, fmt.Errorf("%s: the key %s is also one of source %s: each endpoint has a key of its own",
				s.setting("--secret-file", "secret_files"), key, owner.Name))
			keys[i], again = nil, true
		}
	}
	return problems
}

// shared is a new key of source i that another has the better right to, by its fingerprint, and the other, nil for none.
func shared(sources []*source, keys [][]signature.Key, i int) (key string, owner *source) {
	for _, k := range keys[i] {
		key = k.Fingerprint()
		if slices.Contains(sources[i].fingerprints, key) {
			continue
		}
		for j, other := range sources {
			has := slices.Contains(other.fingerprints, key)
			stays := has && len(keys[j]) == 0
			comes := slices.ContainsFunc(keys[j], func(k signature.Key) bool { return k.Fingerprint() == key })
			if j != i && (stays || comes && (has || j < i)) {
				return key, other
			}
		}
	}
	return "", nil
}

// apply replaces keys and values, and reports whether that changed something. There are always some keys: with none,
// those before stay. Values that were asked for once are never none.
func (s *source) apply(keys []signature.Key, values []credential) (changed bool) {
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

// A keeper keeps up with the files.
type keeper struct {
	sources      []*source
	certificates *certificates // nil without TLS
	metrics      *frontMetrics
	log          *zap.Logger

	mu       sync.Mutex
	problems []error
}

// names are of all files and folders.
func (k *keeper) names() []string {
	var names []string
	for _, s := range k.sources {
		names = slices.Concat(names, s.SecretFiles, s.AuthorizationFiles)
	}
	if c := k.certificates; c != nil {
		names = append(names, c.cert, c.key)
		if c.clientCA != "" {
			names = append(names, c.clientCA)
		}
	}
	return names
}

// run keeps up until ctx ends.
func (k *keeper) run(ctx context.Context) {
	if names := k.names(); len(names) > 0 {
		watchFiles(ctx, names, recheck, k.log, k.read)
	}
}

// read reads all files, and says what is new and what is wrong when that is new.
func (k *keeper) read() {
	problems := refresh(k.sources, func(s *source) {
		s.metrics.setKeys(s.fingerprints)
		k.log.Info("files read again", zap.String("source", string(s.Name)),
			zap.Strings("keys", s.fingerprints), zap.Int("authorizations", s.credentials.count()))
	})
	if c := k.certificates; c != nil {
		switch changed, err := c.load(); {
		case err != nil:
			problems = append(problems, err)
		case changed:
			k.metrics.certificateEnds(c.leaf().NotAfter)
			k.log.Info("certificate read again", zap.Time("ends", c.leaf().NotAfter))
		}
		if err := c.check(time.Now()); err != nil {
			problems = append(problems, err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, problem := range problems {
		known := slices.ContainsFunc(k.problems, func(before error) bool { return before.Error() == problem.Error() })
		if !known {
			k.log.Error("a file cannot be used: what it said before still counts", zap.Error(problem))
		}
	}
	if len(problems) == 0 && len(k.problems) > 0 {
		k.log.Info("all files can be used again")
	}
	k.problems = problems
	k.metrics.problems.Set(float64(len(problems)))
}

// check warns of what is wrong with the files. The ingress can receive all the same.
func (k *keeper) check(context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return process.Warning(errors.Join(k.problems...))
}
