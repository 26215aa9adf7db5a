package inspect

import (
	"hash/maphash"
	"slices"
	"sort"
	"sync"
	"time"
)

// blockSize is how many sequences a block has.
const blockSize = 1 << 16

// A block has the hashes of the ids of up to blockSize consecutive sequences, and for each the place of its message in the
// block. It is sorted, in 6 bytes for each id, when it gets no more.
type block struct {
	number uint64    // of its sequences, divided by blockSize
	since  time.Time // when the oldest of its messages was stored
	open   []uint64  // hash and place, in no order, until it is sorted
	hashes []uint32
	places []uint16 // of the hashes
}

func (b *block) bytes() int { return 8*cap(b.open) + 4*cap(b.hashes) + 2*cap(b.places) }

func (b *block) sort() {
	slices.Sort(b.open)
	b.hashes, b.places = make([]uint32, len(b.open)), make([]uint16, len(b.open))
	for i, v := range b.open {
		b.hashes[i], b.places[i] = uint32(v>>16), uint16(v)
	}
	b.open = nil
}

// sequences appends those that have a hash, in no order.
func (b *block) sequences(to []uint64, hash uint32) []uint64 {
	for _, v := range b.open {
		if uint32(v>>16) == hash {
			to = append(to, b.number*blockSize+v&(blockSize-1))
		}
	}
	return b.sorted(to, hash)
}

// sorted appends those of a block that is sorted.
func (b *block) sorted(to []uint64, hash uint32) []uint64 {
	i := sort.Search(len(b.hashes), func(i int) bool { return b.hashes[i] >= hash })
	for ; i < len(b.hashes) && b.hashes[i] == hash; i++ {
		to = append(to, b.number*blockSize+uint64(b.places[i]))
	}
	return to
}

// A posting is an id of a message, by its hash.
type posting struct {
	sequence uint64
	stored   time.Time // when the message was
	hash     uint32
}

// An index tells which messages of a stream may have an id: their ids have its hash. It is safe for concurrent use.
type index struct {
	seed  maphash.Seed
	limit int // of bytes

	mu            sync.RWMutex
	blocks        []*block  // by number
	from, through uint64    // sequences of which it knows all
	oldest        time.Time // when the message at from was stored; zero before it knows of any
	full          bool      // it has dropped blocks, or refused older messages, to stay within limit
}

func newIndex(limit int) *index { return &index{seed: maphash.MakeSeed(), limit: limit, from: 1} }

// postings appends those of a message with these ids. An id that is empty or comes twice has one or none.
func (x *index) postings(to []posting, sequence uint64, stored time.Time, ids []string) []posting {
	before := len(to)
	for _, id := range ids {
		p := posting{sequence, stored, x.hash(id)}
		if id != "" && !slices.Contains(to[before:], p) {
			to = append(to, p)
		}
	}
	return to
}

func (x *index) hash(id string) uint32 { return uint32(maphash.String(x.seed, id)) }

// begin forgets everything, and begins between last and the message behind it.
func (x *index) begin(last uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.blocks, x.from, x.through, x.oldest, x.full = nil, last+1, last, time.Time{}, false
}

// addNewer adds a message that was stored after all that the index knows.
func (x *index) addNewer(sequence uint64, stored time.Time, ids []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range x.postings(nil, sequence, stored, ids) {
		x.add(p)
	}
	x.through = sequence
	if x.oldest.IsZero() {
		x.oldest = stored
	}
	x.settle()
}

// addOlder adds all messages from a sequence to those that the index knows. stored is when the first of them was; it is zero
// without any. It reports whether the index has kept them: otherwise it is full.
func (x *index) addOlder(from uint64, stored time.Time, all []posting) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.full || x.bytes()+8*len(all) > x.limit {
		x.full = true
		return false
	}
	for _, p := range all {
		x.add(p)
	}
	x.from = from
	if !stored.IsZero() {
		x.oldest = stored
	}
	x.settle()
	return !x.full
}

func (x *index) add(p posting) {
	number := p.sequence / blockSize
	i, found := slices.BinarySearchFunc(x.blocks, number, func(b *block, n uint64) int {
		return int(int64(b.number) - int64(n))
	})
	if !found {
		x.blocks = slices.Insert(x.blocks, i, &block{number: number, since: p.stored})
	}
	b := x.blocks[i]
	b.open = append(b.open, uint64(p.hash)<<16|p.sequence&(blockSize-1))
	if p.stored.Before(b.since) {
		b.since = p.stored
	}
}

// settle sorts the blocks that get no more, and drops the oldest while there is too much.
func (x *index) settle() {
	for _, b := range x.blocks {
		if b.open != nil && b.number < x.through/blockSize && max(b.number*blockSize, 1) >= x.from {
			b.sort()
		}
	}
	for x.bytes() > x.limit && len(x.blocks) > 1 {
		x.full = true
		x.drop()
	}
}

func (x *index) drop() {
	x.from = max(x.from, (x.blocks[0].number+1)*blockSize)
	x.blocks = slices.Delete(x.blocks, 0, 1)
	if len(x.blocks) > 0 {
		x.oldest = x.blocks[0].since
	}
}

// trim drops the blocks whose messages are all before the first one of the stream.
func (x *index) trim(first uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(x.blocks) > 1 && (x.blocks[0].number+1)*blockSize <= first {
		x.drop()
	}
}

func (x *index) bytes() (n int) {
	for _, b := range x.blocks {
		n += b.bytes()
	}
	return n
}

// covers returns between which sequences the index knows all messages.
func (x *index) covers() (from, through uint64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.from, x.through
}

// sequences returns the newest messages before a sequence that may have an id, newest first: of one block or more, and
// whether there may be others before them.
func (x *index) sequences(id string, before uint64, atLeast int) (all []uint64, more bool) {
	hash := x.hash(id)
	x.mu.RLock()
	defer x.mu.RUnlock()
	for i, b := range slices.Backward(x.blocks) {
		if b.number*blockSize >= before {
			continue
		}
		one := b.sequences(nil, hash)
		slices.Sort(one)
		slices.Reverse(one)
		for _, n := range one {
			if n < before && n >= x.from {
				all = append(all, n)
			}
		}
		if len(all) >= atLeast && i > 0 {
			return all, true
		}
	}
	return all, false
}

// places returns the messages that may have one of some ids, sorted, each once.
func (x *index) places(ids []string) (all []uint64) {
	hashes := make([]uint32, len(ids))
	var low [1 << 10]uint64 // a bit for each 16 lower bits that a hash has: of most postings it tells at once
	for i, id := range ids {
		hashes[i] = x.hash(id)
		low[hashes[i]>>6&(1<<10-1)] |= 1 << (hashes[i] & 63)
	}
	slices.Sort(hashes)
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, b := range x.blocks {
		for _, v := range b.open { // once for all: they are in no order
			hash := uint32(v >> 16)
			if low[hash>>6&(1<<10-1)]&(1<<(hash&63)) == 0 {
				continue
			}
			if _, found := slices.BinarySearch(hashes, hash); found {
				all = append(all, b.number*blockSize+v&(blockSize-1))
			}
		}
		for _, hash := range hashes {
			all = b.sorted(all, hash)
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	from, _ := slices.BinarySearch(all, x.from)
	return all[from:]
}

// IndexState says what an Index holds.
type IndexState struct {
	Bytes  int       // of memory
	Events uint64    // sequences that it has looked at and whose messages it can find
	Oldest time.Time // when the oldest of them was stored; zero before it has looked at any
	Full   bool      // older events did not fit
}

func (x *index) state() IndexState {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return IndexState{Bytes: x.bytes(), Events: x.through + 1 - x.from, Oldest: x.oldest, Full: x.full}
}
