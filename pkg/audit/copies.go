package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// Scrubbed is the result of reading every message of a stream from every server that has a copy.
type Scrubbed struct {
	Stream string `json:"stream"`
	// Servers have a copy that was read as a whole.
	Servers []string `json:"servers"`
	// Messages is the number of sequences that at least one server could read.
	Messages uint64 `json:"messages"`
	// Deleted is the number of sequences between the first and the last that the leader counts as deleted. A server that
	// starts with a damaged copy counts what it cannot read as deleted.
	Deleted int `json:"deleted,omitempty"`
	// Exceptions are sequences that a server cannot read, and copies that could not be read.
	Exceptions []Exception `json:"exceptions,omitempty"`

	elsewhere []uint64 // what a server cannot read and another can
}

// A Scrub reads every message of a stream from each server that has a copy. Each sequence from From to the last one must be
// readable on each server, unless it was deleted: a server does not deliver a message whose checksum is wrong, and does not
// say so. What a server does not have is asked for again after a pause, because a copy can lag.
//
// It needs permission for STREAM.INFO and DIRECT.GET on the stream and, for a stream with more than one copy, to publish to
// its own inbox and to trace its requests: any copy answers a direct get, and only the trace says which.
type Scrub struct {
	JS     jetstream.JetStream
	Stream string
	From   uint64        // the first sequence of the stream if it is lower
	Settle time.Duration // the pause; 2 s if zero
	// Progress is called with how many of how many sequences were read; it may be nil.
	Progress func(done, total uint64)
}

// Run reads the copies. An error means that they could not be read; damage is in the result.
func (o Scrub) Run(ctx context.Context) (Scrubbed, error) {
	s := &scrub{js: o.JS, stream: o.Stream, missing: map[place]bool{}}
	if err := s.run(ctx, o); err != nil {
		return Scrubbed{}, fmt.Errorf("reading the copies of stream %s: %w", o.Stream, err)
	}
	return s.result(), nil
}

func (s *scrub) run(ctx context.Context, o Scrub) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	first, last := max(o.From, s.state.First, 1), s.state.Last
	for next := first; next <= last; {
		end, err := s.readChunk(ctx, next, last)
		if err != nil {
			return err
		}
		next = end + 1
		if o.Progress != nil {
			o.Progress(next-first, last-first+1)
		}
	}
	s.noteLost(first, last)
	return s.confirm(ctx, cmp.Or(o.Settle, defaultSettle))
}

// noteLost notes what the leader says that it has lost. With the only copy it may count from there again: then another message
// has the sequence. With more copies it got the message from them.
func (s *scrub) noteLost(first, last uint64) {
	leader := s.servers[0]
	for _, sequence := range s.lost {
		p := place{leader, sequence}
		switch {
		case sequence < first:
		case sequence > last:
			s.missing[p] = true
		case !s.traced() && !s.missing[p]:
			s.replaced = append(s.replaced, sequence)
		}
	}
}

// A place is a sequence in one server's copy.
type place struct {
	server   string
	sequence uint64
}

const (
	chunkMessages = 1000 // if their bytes fit in a batch
	// asks bounds the requests for one answer of a certain server. Each of three servers answers one in three.
	asks = 100
	// maxDeleted bounds the list of deleted sequences, which the leader sends as a whole. Without the list, a sequence that
	// no copy has counts as deleted.
	maxDeleted = 1 << 20
)

type scrub struct {
	js      jetstream.JetStream
	stream  string
	servers []string // whose copies are read
	absent  []string // whose copies cannot be read
	state   copyState
	listed  bool            // deleted is known
	deleted map[uint64]bool // without what was lost
	lost    []uint64        // what the leader could not read when it started
	read    uint64
	missing map[place]bool
	size    stream.BatchSize
	// replaced are sequences of lost messages that later messages have.
	replaced []uint64
}

// copyState is the state of a stream as its leader knows it.
type copyState struct {
	First      uint64   `json:"first_seq"`
	Last       uint64   `json:"last_seq"`
	NumDeleted int      `json:"num_deleted"`
	Deleted    []uint64 `json:"deleted"`
	// Lost has the sequences that the leader could not read when it started.
	Lost struct {
		Sequences []uint64 `json:"msgs"`
	} `json:"lost"`
}

// open reads the state of the stream, and which servers have a copy.
func (s *scrub) open(ctx context.Context) error {
	if err := s.readState(ctx); err != nil {
		return err
	}
	c, err := s.info(ctx, false)
	if err != nil {
		return err
	}
	s.servers = []string{s.js.Conn().ConnectedServerName()}
	if c != nil && c.Leader != "" {
		s.servers = []string{c.Leader}
		for _, r := range c.Replicas {
			if r.Offline || !r.Current {
				s.absent = append(s.absent, r.Name)
			} else {
				s.servers = append(s.servers, r.Name)
			}
		}
	}
	return nil
}

// traced reports whether only a trace says which server answered.
func (s *scrub) traced() bool { return len(s.servers)+len(s.absent) > 1 }

// readState reads the state of the stream and the list of what was deleted.
func (s *scrub) readState(ctx context.Context) error {
	if _, err := s.info(ctx, false); err != nil {
		return err
	}
	s.deleted, s.listed = map[uint64]bool{}, s.state.NumDeleted <= maxDeleted
	if s.listed { // only with the list the leader says what it has lost
		if _, err := s.info(ctx, true); err != nil {
			return err
		}
	}
	for _, sequence := range s.state.Deleted {
		s.deleted[sequence] = true
	}
	s.lost = s.state.Lost.Sequences
	for _, sequence := range s.lost {
		delete(s.deleted, sequence)
	}
	return nil
}

// info asks the leader for the state.
func (s *scrub) info(ctx context.Context, details bool) (*jetstream.ClusterInfo, error) {
	var info struct {
		Error   *jetstream.APIError    `json:"error"`
		State   copyState              `json:"state"`
		Cluster *jetstream.ClusterInfo `json:"cluster"`
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := s.js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.INFO."+s.stream, fmt.Appendf(nil, `{"deleted_details":%t}`, details))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return nil, err
	}
	if info.Error != nil {
		return nil, info.Error
	}
	s.state = info.State
	return info.Cluster, nil
}

// chunk is what each server has of the messages from a sequence on.
type chunk struct {
	from, end uint64
	any       map[uint64]bool            // what one or more servers have
	seen      map[string]map[uint64]bool // by server
}

// readChunk reads messages from a sequence on, from each server, and returns the sequence up to which all have been read.
func (s *scrub) readChunk(ctx context.Context, from, last uint64) (end uint64, err error) {
	c := chunk{from: from, end: last, any: map[uint64]bool{}, seen: map[string]map[uint64]bool{}}
	question := map[string]any{"seq": from, "batch": chunkMessages, "max_bytes": s.size.Bytes()}
	for _, server := range slices.Clone(s.servers) {
		err := s.askServer(ctx, server, question, c.add, func() bool { return c.seen[server] != nil })
		if err != nil {
			return 0, err
		}
	}
	if len(c.any) == 0 { // no server can read on from here
		c.end = from
		for c.end < last && s.deleted[c.end+1] {
			c.end++
		}
	}
	s.compare(c)
	return c.end, nil
}

// add adds the answer of a server.
func (c *chunk) add(server string, sequences []uint64) {
	if c.seen[server] != nil {
		return
	}
	has := map[uint64]bool{}
	for _, sequence := range sequences {
		has[sequence], c.any[sequence] = true, true
	}
	c.seen[server] = has
	if n := len(sequences); n > 0 {
		c.end = min(c.end, sequences[n-1])
	}
}

// compare notes what is missing in a copy.
func (s *scrub) compare(c chunk) {
	note := func(sequence uint64) {
		for _, server := range s.servers {
			if !c.seen[server][sequence] {
				s.missing[place{server, sequence}] = true
			}
		}
	}
	for sequence := range c.any {
		if sequence <= c.end {
			s.read++
			note(sequence)
		}
	}
	for sequence := c.from; s.listed && sequence <= c.end; sequence++ {
		if !c.any[sequence] && !s.deleted[sequence] {
			note(sequence)
		}
	}
}

// confirm asks again, after a pause, for what is missing, and forgets what was deleted or has come since.
func (s *scrub) confirm(ctx context.Context, settle time.Duration) error {
	if len(s.missing) == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settle):
	}
	if err := s.readState(ctx); err != nil {
		return err
	}
	bySequence := map[uint64][]string{}
	for p := range s.missing {
		bySequence[p.sequence] = append(bySequence[p.sequence], p.server)
	}
	for sequence, missing := range bySequence {
		has := map[string]bool{}
		note := func(server string, sequences []uint64) { has[server] = has[server] || len(sequences) > 0 }
		for _, server := range slices.Clone(s.servers) {
			answered := func() bool { _, ok := has[server]; return ok }
			if err := s.askServer(ctx, server, map[string]any{"seq": sequence}, note, answered); err != nil {
				return err
			}
		}
		elsewhere := slices.ContainsFunc(s.servers, func(server string) bool { return has[server] })
		for _, server := range missing {
			dropped := sequence < s.state.First || !s.listed || s.deleted[sequence]
			if has[server] || dropped && !elsewhere {
				delete(s.missing, place{server, sequence})
			}
		}
	}
	return nil
}

// askServer asks until a server has answered, and calls add with the answers of all. A server that never answers is
// absent.
func (s *scrub) askServer(ctx context.Context, server string, question map[string]any, add func(string, []uint64), answered func() bool) error {
	for n := 0; !answered(); n++ {
		if n == asks {
			s.absent = append(s.absent, server)
			s.servers = slices.DeleteFunc(s.servers, func(name string) bool { return name == server })
			return nil
		}
		from, sequences, err := s.ask(ctx, question)
		if err != nil {
			return err
		}
		add(from, sequences)
	}
	return nil
}

// result returns what was found.
func (s *scrub) result() Scrubbed {
	r := Scrubbed{Stream: s.stream, Servers: s.servers, Messages: s.read, Deleted: s.state.NumDeleted}
	slices.Sort(r.Servers)
	for _, server := range s.absent {
		r.Exceptions = append(r.Exceptions, Exception{
			Kind: UnreadCopy, Stream: s.stream, Server: server,
			Detail: fmt.Sprintf("the copy of %s on %s was not read: it does not answer or is not up to date; wait until it is, and audit again", s.stream, server),
		})
	}
	for p := range s.missing {
		if slices.ContainsFunc(s.servers, func(server string) bool { return !s.missing[place{server, p.sequence}] }) {
			r.elsewhere = append(r.elsewhere, p.sequence)
		}
		if slices.Contains(s.servers, p.server) {
			r.Exceptions = append(r.Exceptions, Exception{
				Kind: Unreadable, Stream: s.stream, Server: p.server, Sequence: p.sequence,
				Detail: fmt.Sprintf("%s cannot read it in its copy of %s, and a consumer passes it without a word: see \"A disk is damaged\" in docs/operate.md", p.server, s.stream),
			})
		}
	}
	for _, sequence := range s.replaced {
		r.Exceptions = append(r.Exceptions, Exception{
			Kind: Unreadable, Stream: s.stream, Server: s.servers[0], Sequence: sequence,
			Detail: fmt.Sprintf("%s lost the message that had this sequence in %s when it started, and another message has it now: see \"A disk is damaged\" in docs/operate.md", s.servers[0], s.stream),
		})
	}
	slices.Sort(r.elsewhere)
	r.elsewhere = slices.Compact(r.elsewhere)
	slices.SortFunc(r.Exceptions, func(x, y Exception) int {
		return cmp.Or(cmp.Compare(x.Sequence, y.Sequence), strings.Compare(x.Server, y.Server))
	})
	return r
}

// errUntraced says that nothing tells which copy answered.
var errUntraced = errors.New("the server does not say which copy answered: allow this user to publish to its inbox (_INBOX_headgate.>), and set allow_trace on the export of $JS.API.DIRECT.GET, as deploy/nats does")

// ask sends a direct get and returns the sequences of the messages that come back, and the server that sent them. Of a batch
// that is cut off it returns what arrived.
func (s *scrub) ask(ctx context.Context, question map[string]any) (server string, sequences []uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := json.Marshal(question)
	if err != nil {
		return "", nil, err
	}
	nc := s.js.Conn()
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox + ".*")
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection ends it otherwise
	request := &nats.Msg{Subject: "$JS.API.DIRECT.GET." + s.stream, Reply: inbox + ".answer", Data: body, Header: nats.Header{}}
	if s.traced() {
		request.Header.Set("Nats-Trace-Dest", inbox+".trace")
	} else {
		server = s.servers[0]
	}
	if err := nc.PublishMsg(request); err != nil {
		return "", nil, err
	}
	_, batch := question["batch"]
	began, received := time.Now(), 0
	if batch {
		defer func() { s.size.Received(received, time.Since(began)) }()
	}
	for complete := false; !complete || server == ""; {
		m, err := sub.NextMsgWithContext(ctx)
		switch {
		case errors.Is(err, context.DeadlineExceeded) && complete:
			return "", nil, errUntraced
		case errors.Is(err, context.DeadlineExceeded) && server != "" && len(sequences) > 0:
			return server, sequences, nil
		case err != nil:
			return "", nil, err
		case strings.HasSuffix(m.Subject, ".trace"):
			server = cmp.Or(server, tracedServer(m.Data))
			continue
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			sequence, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
			if err != nil {
				return "", nil, fmt.Errorf("sequence of a message: %w", err)
			}
			sequences = append(sequences, sequence)
			received += m.Size()
			complete = !batch
		case "204", "404": // the end of a batch; no message
			complete = true
		default:
			return "", nil, fmt.Errorf("the server answers with status %s %s", status, m.Header.Get("Description"))
		}
	}
	return server, sequences, nil
}

// tracedServer returns the server to which a traced request went, and "" when the trace does not say so. A request that
// the server answers itself does not leave it.
func tracedServer(trace []byte) string {
	var t struct {
		Server struct {
			Name string `json:"name"`
		} `json:"server"`
		Events []struct {
			Type  string `json:"type"`
			Kind  int    `json:"kind"`
			Name  string `json:"name"`
			Error string `json:"error"`
		} `json:"events"`
	}
	if json.Unmarshal(trace, &t) != nil {
		return ""
	}
	for _, e := range t.Events {
		if e.Type == "eg" && e.Name != "" {
			return e.Name
		}
	}
	return t.Server.Name
}
