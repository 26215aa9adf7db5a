package ingress

import (
	"errors"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/stream"
)

const (
	// inProcessFor is how long an id may be in process. A publish that is on its way takes seconds.
	inProcessFor = time.Minute
	// maxIDsInProcess bounds the ids that are remembered. Those that were refused first are forgotten first.
	maxIDsInProcess = 4096
)

// idsInProcess tells an id that stays in process at the server from one that is in process because nothing is stored now.
// While a quorum is lost, the server refuses each retry of an event so, and stores it later. Its zero value is ready to use,
// and it is safe for concurrent use.
type idsInProcess struct {
	mu  sync.Mutex
	ids map[string]idInProcess
}

// idInProcess is when an id was refused first, and how many events had been stored when it was refused last.
type idInProcess struct {
	since  time.Time
	stored uint64
}

// refused returns errIDStays joined to the error of a publish when its id has been refused as in process for inProcessFor and
// another event was stored since it was refused last, and other errors as they are.
func (p *idsInProcess) refused(id string, err error, stored uint64, now time.Time) error {
	if !errors.Is(err, stream.ErrInProcess) {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	last, known := p.ids[id]
	if !known {
		p.makeRoom()
		last.since = now
	}
	stays := known && now.Sub(last.since) >= inProcessFor && stored != last.stored
	last.stored = stored
	p.ids[id] = last
	if stays {
		return errors.Join(errIDStays, err)
	}
	return err
}

// makeRoom makes the map, and removes the id that was refused first when it is full.
func (p *idsInProcess) makeRoom() {
	if p.ids == nil {
		p.ids = map[string]idInProcess{}
	}
	if len(p.ids) < maxIDsInProcess {
		return
	}
	first := ""
	for id, in := range p.ids {
		if first == "" || in.since.Before(p.ids[first].since) {
			first = id
		}
	}
	delete(p.ids, first)
}
