package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Why a message was not published. Every error of Publish is one of these.
var (
	ErrFull        = errors.New("the stream is full")
	ErrBusy        = errors.New("too many publishes in flight")
	ErrUnavailable = errors.New("the stream is not available")
	ErrTooLarge    = errors.New("the message is too large")
	ErrBadSubject  = errors.New("the subject is not valid")
)

const (
	// DefaultWindow is more than arrives in the 4.5 s that a lost leader costs, at 900 messages a second.
	DefaultWindow = 4096
	// DefaultTryTimeout leaves room for three tries in the eight seconds that the ingress has.
	DefaultTryTimeout = 2500 * time.Millisecond

	firstPause = 250 * time.Millisecond
	lastPause  = time.Second
)

// PublisherOptions configure a Publisher. Zero values mean the defaults.
type PublisherOptions struct {
	Window     int           // how many messages may be in flight at once
	TryTimeout time.Duration // for how long one try waits for its ack
}

// Receipt says where a message is stored.
type Receipt struct {
	Stream    string
	Sequence  uint64
	Duplicate bool // it was stored before, and is not stored again
}

// Publisher publishes messages and waits for their acks. It is safe for use by many goroutines at once.
//
// It has its own inbox for acks instead of the asynchronous publisher of nats.go, which holds on to the body of a
// message, and may send it again, after the caller was told how it ended: here nothing of a message is used once
// Publish has returned.
type Publisher struct {
	nc     *nats.Conn
	sub    *nats.Subscription
	inbox  string                 // acks come to <inbox>.<slot>.<generation>
	try    time.Duration          // for how long one try waits for its ack
	slots  []atomic.Pointer[slot] // made when they are needed first
	free   chan *slot             // of those that are made
	making sync.Mutex
	made   int
	status chan nats.Status
	closed chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
}

// A slot is one message in flight. Its number and generation are the address of the acks, of all tries alike: a late
// ack of the first is as good as one of the second.
type slot struct {
	inbox  string         // <inbox>.<slot>.
	acks   chan *nats.Msg // nil in it: there may be no ack, since the connection was lost or the publisher closed
	timer  *time.Timer
	stream string // of the last ack, so that its name is allocated once
	out    nats.Msg

	mu      sync.Mutex
	gen     uint64
	address []byte // inbox and gen
	used    bool   // by a publish, which waits for its ack or is about to
}

// NewPublisher makes a publisher on a connection, which stays the caller's. The connection should have no reconnect
// buffer (as Connect makes it): what is in such a buffer may be sent after Publish has failed.
func NewPublisher(nc *nats.Conn, o PublisherOptions) (*Publisher, error) {
	if o.Window == 0 {
		o.Window = DefaultWindow
	}
	if o.TryTimeout == 0 {
		o.TryTimeout = DefaultTryTimeout
	}
	if o.Window < 0 || o.TryTimeout < 0 {
		return nil, fmt.Errorf("publisher: window %d, try timeout %v: neither can be negative", o.Window, o.TryTimeout)
	}
	p := &Publisher{
		nc:     nc,
		inbox:  nc.NewInbox(),
		try:    o.TryTimeout,
		slots:  make([]atomic.Pointer[slot], o.Window),
		free:   make(chan *slot, o.Window),
		closed: make(chan struct{}),
	}
	var err error
	if p.sub, err = nc.Subscribe(p.inbox+".*.*", p.deliver); err != nil {
		return nil, fmt.Errorf("publisher: subscribe to its acks: %w", err)
	}
	if err := p.sub.SetPendingLimits(-1, -1); err != nil {
		return nil, fmt.Errorf("publisher: subscribe to its acks: %w", err)
	}
	p.status = nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	p.wg.Go(p.watch)
	return p, nil
}

// Close ends the publisher. Publishes in flight fail with ErrUnavailable.
func (p *Publisher) Close() {
	p.once.Do(func() {
		close(p.closed)
		p.wake()
		// It fails only when the connection is closed, and then the subscription has ended with it.
		_ = p.sub.Unsubscribe()
		p.nc.RemoveStatusListener(p.status)
		p.wg.Wait()
	})
}

// watch tells all that wait for an ack that it will not come, when the connection is lost.
func (p *Publisher) watch() {
	for range p.status {
		p.wake()
	}
}

// wake lets all that wait for an ack look whether it can still come.
func (p *Publisher) wake() {
	for i := range p.slots {
		s := p.slots[i].Load()
		if s == nil {
			return // nor are those behind it made
		}
		s.mu.Lock()
		if s.used && len(s.acks) < cap(s.acks)-1 { // the last place is an answer's
			s.put(nil)
		}
		s.mu.Unlock()
	}
}

// take returns a slot that is free, nil when all are in use.
func (p *Publisher) take() *slot {
	select {
	case s := <-p.free:
		return s
	default:
	}
	p.making.Lock()
	defer p.making.Unlock()
	if p.made == len(p.slots) {
		return nil
	}
	t := time.NewTimer(time.Hour)
	t.Stop()
	s := &slot{inbox: p.inbox + "." + strconv.Itoa(p.made) + ".", acks: make(chan *nats.Msg, 3), timer: t}
	p.slots[p.made].Store(s)
	p.made++
	return s
}

// put gives the slot something to read. Its owner holds mu.
func (s *slot) put(m *nats.Msg) {
	select {
	case s.acks <- m:
	default: // answers wait already: one more changes nothing
	}
}

// deliver gives an ack to the slot that waits for it. One that is not waited for any more is dropped.
func (p *Publisher) deliver(m *nats.Msg) {
	number, generation, _ := strings.Cut(m.Subject[len(p.inbox)+1:], ".")
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 || i >= len(p.slots) {
		return
	}
	gen, err := strconv.ParseUint(generation, 36, 64)
	if err != nil {
		return
	}
	s := p.slots[i].Load()
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen == gen {
		s.put(m)
	}
}

// next begins a generation of the slot and returns the subject for its acks.
func (s *slot) next() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gen++
	s.used = true
	s.address = strconv.AppendUint(append(s.address[:0], s.inbox...), s.gen, 36)
	return string(s.address)
}

// end makes sure that nothing more comes for this generation.
func (s *slot) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gen++
	s.used = false
	s.out = nats.Msg{}
	s.timer.Stop()
	for len(s.acks) > 0 {
		<-s.acks
	}
}

// Publish stores a message and returns when its stream has said so; no error means that it is stored. When the outcome
// of a try is unknown (the ack is late, the connection was lost, the stream has no leader) it is published again with
// the same message id, until ctx ends; nothing is sent after that. So a message without the header Nats-Msg-Id may be
// stored twice. Publish does not change the message and keeps nothing of it. Give ctx a deadline: without one, Publish
// tries for ever.
func (p *Publisher) Publish(ctx context.Context, msg *nats.Msg) (Receipt, error) {
	return p.PublishUntil(ctx, time.Time{}, msg)
}

// PublishUntil is Publish that ends at a time as well, and costs less than a ctx with that deadline.
func (p *Publisher) PublishUntil(ctx context.Context, until time.Time, msg *nats.Msg) (Receipt, error) {
	s := p.take()
	if s == nil {
		return Receipt{}, fmt.Errorf("publish to %s: %w: %d", msg.Subject, ErrBusy, len(p.slots))
	}
	defer func() {
		s.end()
		p.free <- s
	}()
	r, err := p.publish(ctx, until, s, msg)
	if err != nil {
		return Receipt{}, fmt.Errorf("publish to %s: %w", msg.Subject, err)
	}
	return r, nil
}

func (p *Publisher) publish(ctx context.Context, until time.Time, s *slot, msg *nats.Msg) (Receipt, error) {
	s.out = nats.Msg{Subject: msg.Subject, Reply: s.next(), Header: msg.Header, Data: msg.Data}
	var cause error // why the last try did not tell
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		if err := ended(ctx, until); err != nil {
			return Receipt{}, p.gaveUp(msg, err, cause)
		}
		if p.isClosed() {
			return Receipt{}, errClosed
		}
		var r Receipt
		err := p.sendError(p.nc.PublishMsg(&s.out))
		if err == nil {
			s.wait(p.try, until)
			r, err = p.answer(ctx, s)
		}
		if !errors.Is(err, errUnknown) {
			return r, err
		}
		if !errors.Is(err, errGaveUp) {
			cause = err
		}

		// Wait a little, and still listen: the ack may be on its way.
		s.wait(pause, until)
		for waiting := true; waiting; {
			r, err := p.answer(ctx, s)
			switch {
			case !errors.Is(err, errUnknown):
				return r, err
			case errors.Is(err, errGaveUp):
				return Receipt{}, p.gaveUp(msg, ctx.Err(), cause)
			case errors.Is(err, errLate):
				waiting = false
			}
		}
	}
}

// ended says whether and why there is no time left.
func ended(ctx context.Context, until time.Time) error {
	if !until.IsZero() && !time.Now().Before(until) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// wait sets the slot's timer.
func (s *slot) wait(d time.Duration, until time.Time) {
	if !until.IsZero() {
		d = min(d, time.Until(until))
	}
	s.timer.Reset(d)
}

// What answer and sendError say when it is not known whether the message is stored.
var (
	errUnknown = errors.New("outcome unknown")
	errLate    = fmt.Errorf("%w: no ack in time", errUnknown)
	errLost    = fmt.Errorf("%w: the connection was lost: %w", errUnknown, nats.ErrDisconnected)
	errGaveUp  = fmt.Errorf("%w: out of time", errUnknown)
)

var errClosed = fmt.Errorf("%w: the publisher is closed", ErrUnavailable)

func (p *Publisher) isClosed() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

// answer waits for one answer that says something, until the slot's timer or ctx ends or the connection is lost.
func (p *Publisher) answer(ctx context.Context, s *slot) (Receipt, error) {
	for {
		select {
		case m := <-s.acks:
			if m == nil && p.isClosed() {
				return Receipt{}, errClosed
			}
			if m == nil {
				return Receipt{}, errLost
			}
			if r, err, ok := s.read(m); ok {
				return r, err
			}
		case <-s.timer.C:
			return Receipt{}, errLate
		case <-ctx.Done():
			return Receipt{}, errGaveUp
		}
	}
}

// gaveUp is the error of a publish that ran out of time.
func (p *Publisher) gaveUp(msg *nats.Msg, end, cause error) error {
	// A server refuses a publish beside the message, which is then never acknowledged.
	if err := p.nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), `"`+msg.Subject+`"`) {
		cause = err
	}
	if cause == nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, end)
	}
	return fmt.Errorf("%w: %w: %w", ErrUnavailable, end, cause)
}

// sendError sorts what can go wrong before a message has left. Without a connection it is nats.ErrDisconnected.
func (p *Publisher) sendError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, nats.ErrBadSubject):
		return fmt.Errorf("%w: %w", ErrBadSubject, err)
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrHeadersNotSupported) && !p.lacksHeaders():
		return fmt.Errorf("%w: %w: %w", errUnknown, nats.ErrDisconnected, notConnected(p.nc))
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining), errors.Is(err, nats.ErrHeadersNotSupported):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", errUnknown, err)
}

// lacksHeaders says whether there is a server that takes no headers. Of one that was never reached nats.go says so too.
func (p *Publisher) lacksHeaders() bool { return p.nc.IsConnected() && !p.nc.HeadersSupported() }

// read reads an answer. It is not ok when it is no answer of a stream: whoever subscribes to a subject of the stream
// can answer there too, and the stream is still to be heard.
func (s *slot) read(m *nats.Msg) (r Receipt, err error, ok bool) {
	if name, r, ok := readAck(m.Data); ok {
		if s.stream != string(name) {
			s.stream = string(name)
		}
		r.Stream = s.stream
		return r, nil, true
	}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return r, fmt.Errorf("%w: no stream answers for the subject, or it has no leader now", errUnknown), true
	}
	var a struct {
		jetstream.PubAck
		Error *jetstream.APIError `json:"error"`
	}
	if json.Unmarshal(m.Data, &a) != nil {
		return r, nil, false
	}
	if a.Error != nil {
		return r, ackError(a.Error), true
	}
	if a.Stream == "" || a.Sequence == 0 {
		return r, nil, false
	}
	return Receipt{Stream: a.Stream, Sequence: a.Sequence, Duplicate: a.Duplicate}, nil, true
}

// readAck reads an ack in exactly the form in which servers of today write it, without allocating; any other form is
// left to encoding/json.
func readAck(data []byte) (stream []byte, r Receipt, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	if !ok {
		return nil, r, false
	}
	stream, rest, ok = bytes.Cut(rest, []byte(`","seq":`))
	if !ok || len(stream) == 0 || bytes.ContainsAny(stream, `"\`) {
		return nil, r, false
	}
	i := 0
	for ; i < len(rest) && i < 19 && rest[i] >= '0' && rest[i] <= '9'; i++ {
		r.Sequence = 10*r.Sequence + uint64(rest[i]-'0')
	}
	if i == 0 || r.Sequence == 0 {
		return nil, r, false
	}
	switch string(rest[i:]) {
	case "}":
	case `,"duplicate": true}`:
		r.Duplicate = true
	default:
		return nil, r, false
	}
	return stream, r, true
}

// ackError sorts what a stream answers instead of an ack.
func ackError(e *jetstream.APIError) error {
	switch e.ErrorCode {
	case codeStoreFailed:
		// One code for everything that the store says.
		switch {
		case strings.Contains(e.Description, "maximum bytes"), strings.Contains(e.Description, "maximum messages"):
			return fmt.Errorf("%w: %w", ErrFull, e)
		case strings.Contains(e.Description, "too large"), strings.Contains(e.Description, "to large"):
			return fmt.Errorf("%w: %w", ErrTooLarge, e)
		}
	case codeAccountExceeded, codeInsufficientResources, codeMemoryExceeded, codeStorageExceeded, codeStreamMaxBytesExceeded:
		return fmt.Errorf("%w: %w", ErrFull, e)
	case jetstream.JSErrCodeStreamMessageExceedsMaximum, codeHeaderTooLarge:
		return fmt.Errorf("%w: %w", ErrTooLarge, e)
	case codeDuplicateInProcess:
		return fmt.Errorf("%w: %w", errUnknown, e)
	}
	if e.Code >= 500 || e.Code == 429 {
		return fmt.Errorf("%w: %w", errUnknown, e)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, e) // it will say the same again
}
