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

// The errors of Publish: each of its errors is one of these.
var (
	ErrFull        = errors.New("the stream is full")
	ErrBusy        = errors.New("too many publishes in flight")
	ErrUnavailable = errors.New("the stream is not available")
	ErrTooLarge    = errors.New("the message is too large")
	ErrBadSubject  = errors.New("the subject is not valid")
	// ErrInProcess is an ErrUnavailable for this message id only: in all of the time the stream answered that another publish
	// of the id is in process. Nothing of it may be on a disk.
	ErrInProcess = errors.New("another publish of this id is in process")
)

const (
	// DefaultWindow is enough for 900 messages a second during the 4.5 s in which a new leader is elected.
	DefaultWindow = 4096
	// DefaultTryTimeout allows three tries within the eight seconds of the ingress.
	DefaultTryTimeout = 2500 * time.Millisecond

	minRetryPause = 250 * time.Millisecond
	maxRetryPause = time.Second
)

// PublisherOptions configure a Publisher. Zero values mean the defaults.
type PublisherOptions struct {
	Window     int           // messages in flight at once
	TryTimeout time.Duration // time that one try waits for its ack
}

// Receipt says where a message is stored.
type Receipt struct {
	Stream    string
	Sequence  uint64
	Duplicate bool // it was stored before, and was not stored again
}

// Publisher publishes messages and waits for their acks. It is safe for use by many goroutines at once.
//
// It does not use the asynchronous publisher of nats.go, which keeps the body of a message, and may send it again, after
// it has reported the outcome. A Publisher uses nothing of a message after Publish has returned.
type Publisher struct {
	nc     *nats.Conn
	sub    *nats.Subscription
	inbox  string                 // acks come to <inbox>.<slot>.<generation>
	try    time.Duration          // time that one try waits for its ack
	slots  []atomic.Pointer[slot] // allocated on first use
	free   chan *slot             // allocated slots that are free
	making sync.Mutex
	made   int
	status chan nats.Status
	closed chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
	outage outage
}

// A slot is one message in flight. Its number and generation are the address of the acks of all tries: a late ack of the
// first try counts as one of the second.
type slot struct {
	inbox  string         // <inbox>.<slot>.
	acks   chan *nats.Msg // a nil message means that the connection was lost or the publisher closed
	timer  *time.Timer
	stream string // of the last ack, kept to allocate the name once
	out    nats.Msg

	mu      sync.Mutex
	gen     uint64
	address []byte // inbox and gen
	used    bool   // a publish waits for an ack, or is about to
}

// NewPublisher returns a publisher on a connection, which the caller closes. The connection must have no reconnect buffer,
// as those of Connect: a message in such a buffer may be sent after Publish has failed.
func NewPublisher(nc *nats.Conn, o PublisherOptions) (*Publisher, error) {
	if o.Window == 0 {
		o.Window = DefaultWindow
	}
	if o.TryTimeout == 0 {
		o.TryTimeout = DefaultTryTimeout
	}
	if o.Window < 0 || o.TryTimeout < 0 {
		return nil, fmt.Errorf("publisher: the window (%d) and the try timeout (%v) must not be negative", o.Window, o.TryTimeout)
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
		p.wakeAll()
		// It fails only on a closed connection, with which the subscription has ended.
		_ = p.sub.Unsubscribe()
		p.nc.RemoveStatusListener(p.status)
		p.wg.Wait()
	})
}

// watch wakes all publishes when the connection is lost: their acks may not come.
func (p *Publisher) watch() {
	for range p.status {
		p.wakeAll()
	}
}

// wakeAll sends a nil message to every slot in use.
func (p *Publisher) wakeAll() {
	for i := range p.slots {
		s := p.slots[i].Load()
		if s == nil {
			return // the slots after it are not allocated either
		}
		s.mu.Lock()
		if s.used && len(s.acks) < cap(s.acks)-1 { // the last place is for an answer
			s.push(nil)
		}
		s.mu.Unlock()
	}
}

// take returns a free slot, and nil when all are in use.
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

// push gives the slot a message to read. The caller holds mu.
func (s *slot) push(m *nats.Msg) {
	select {
	case s.acks <- m:
	default: // enough answers wait already
	}
}

// deliver gives an ack to its slot, and drops an ack of an earlier generation.
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
		s.push(m)
	}
}

// begin starts a generation of the slot and returns the subject of its acks.
func (s *slot) begin() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gen++
	s.used = true
	s.address = strconv.AppendUint(append(s.address[:0], s.inbox...), s.gen, 36)
	return string(s.address)
}

// end ends the generation: no more acks of it arrive.
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

// Publish stores a message and returns nil only when its stream has acknowledged it. When the outcome of a try is unknown
// (a late ack, a lost connection, a stream without a leader), Publish sends the message again with the same message id,
// until ctx ends. It sends nothing after it has returned. A message without the header Nats-Msg-Id may be stored twice.
// Publish does not change the message and keeps nothing of it. Without a deadline of ctx it tries for ever.
func (p *Publisher) Publish(ctx context.Context, msg *nats.Msg) (Receipt, error) {
	return p.PublishUntil(ctx, time.Time{}, msg)
}

// PublishUntil does what Publish does, and also ends at a time. This costs less than a context with that deadline. In the
// last second it begins no further try, because nats.go can block one for connectTimeout and then for sendTimeout: it
// returns two seconds after until at the latest, unless the first try begins in that second.
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
	s.out = nats.Msg{Subject: msg.Subject, Reply: s.begin(), Header: msg.Header, Data: msg.Data}
	var cause error // of the unknown outcome of the last try
	var last time.Time
	for pause := minRetryPause; ; pause = min(2*pause, maxRetryPause) {
		if err := expired(ctx, until); err != nil {
			return Receipt{}, p.timeoutError(msg, err, cause)
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
			p.outage.answered()
			return r, err
		}
		if !errors.Is(err, errCtxEnded) {
			cause = err
			p.failed(err)
		}

		// Keep listening during the pause: the ack may arrive.
		if last.IsZero() {
			last = lastTry(until)
		}
		s.wait(beforeTry(pause, last, until), until)
		for waiting := true; waiting; {
			r, err := p.answer(ctx, s)
			switch {
			case !errors.Is(err, errUnknown):
				p.outage.answered()
				return r, err
			case errors.Is(err, errCtxEnded):
				return Receipt{}, p.timeoutError(msg, ctx.Err(), cause)
			case errors.Is(err, errLate):
				waiting = false
			}
		}
	}
}

// failed records that the outcome of a try is unknown.
func (p *Publisher) failed(err error) {
	began := time.Now()
	switch {
	case errors.Is(err, nats.ErrDisconnected):
		return // the connection is made anew in any case
	case errors.Is(err, errLate):
		began = began.Add(-p.try)
	}
	p.outage.failed(p.nc, began, err)
}

// expired returns the reason when no time is left.
func expired(ctx context.Context, until time.Time) error {
	if !until.IsZero() && !time.Now().Before(until) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// tryMargin is how long before its end a publish begins its last try.
const tryMargin = time.Second

// lastTry returns the time after which a publish that ends at until begins no further try: half of the time that is left is
// for tries in any case.
func lastTry(until time.Time) time.Time { return until.Add(-min(tryMargin, time.Until(until)/2)) }

// beforeTry returns the pause before the next try, or the time until the end when that try would begin after last.
func beforeTry(pause time.Duration, last, until time.Time) time.Duration {
	if !until.IsZero() && time.Until(last) < pause {
		return time.Until(until)
	}
	return pause
}

// wait sets the slot's timer, to until at the latest.
func (s *slot) wait(d time.Duration, until time.Time) {
	if !until.IsZero() {
		d = min(d, time.Until(until))
	}
	s.timer.Reset(d)
}

// The errors of answer and sendError that leave open whether the message is stored.
var (
	errUnknown  = errors.New("outcome unknown")
	errLate     = fmt.Errorf("%w: no ack in time", errUnknown)
	errLost     = fmt.Errorf("%w: the connection was lost: %w", errUnknown, nats.ErrDisconnected)
	errCtxEnded = fmt.Errorf("%w: out of time", errUnknown)
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

// answer waits for an answer of the stream, until the slot's timer or ctx ends or the connection is lost.
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
			return Receipt{}, errCtxEnded
		}
	}
}

// timeoutError is the error of a publish whose time is over.
func (p *Publisher) timeoutError(msg *nats.Msg, end, cause error) error {
	// A server reports a missing permission on the connection, and never acknowledges the message.
	if err := p.nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), `"`+msg.Subject+`"`) {
		cause = err
	}
	if cause == nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, end)
	}
	return fmt.Errorf("%w: %w: %w", ErrUnavailable, end, cause)
}

// sendError classifies an error of sending. Without a connection it wraps nats.ErrDisconnected.
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

// lacksHeaders reports whether the server takes no headers. nats.go reports the same of a server that it has not reached.
func (p *Publisher) lacksHeaders() bool { return p.nc.IsConnected() && !p.nc.HeadersSupported() }

// read reads an answer. It is not ok when the answer is not from a stream: any subscriber of the subject can answer too,
// and the answer of the stream is still to come.
func (s *slot) read(m *nats.Msg) (r Receipt, err error, ok bool) {
	if name, r, ok := readAck(m.Data); ok {
		if s.stream != string(name) {
			s.stream = string(name)
		}
		r.Stream = s.stream
		return s.ownAck(r)
	}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return r, fmt.Errorf("%w: no stream takes the subject, or the stream has no leader now", errUnknown), true
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
	return s.ownAck(Receipt{Stream: a.Stream, Sequence: a.Sequence, Duplicate: a.Duplicate})
}

// ownAck returns the receipt of an ack. The outcome of the publish is unknown when another stream than that of the subject
// sent the ack: the readers of the subject's stream never see the message.
func (s *slot) ownAck(r Receipt) (Receipt, error, bool) {
	if !storesSubject(r.Stream, s.out.Subject) {
		return Receipt{}, fmt.Errorf("%w: stream %s has stored it, which is not the stream of this subject: take the subject from that stream and run headgate provision", errUnknown, r.Stream), true
	}
	return r, nil, true
}

// readAck reads an ack in the form that servers write today, without allocating. It leaves any other form to
// encoding/json.
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

// ackError classifies the error that a stream answers.
func ackError(e *jetstream.APIError) error {
	switch e.ErrorCode {
	case codeStoreFailed:
		// The store has one code for all of its errors.
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
		return fmt.Errorf("%w: %w: %w", errUnknown, ErrInProcess, e)
	}
	if e.Code >= 500 || e.Code == 429 {
		return fmt.Errorf("%w: %w", errUnknown, e)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, e) // another try would get the same answer
}
