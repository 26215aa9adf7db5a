// Command bound is an upper bound of the ingress's speed: fasthttp, an HMAC that allocates nothing, and publishes that are
// written to the server's socket by hand. It does the necessary work (verify, find the type, store, respond after the ack)
// and nothing that production needs: no deadlines, metrics, log or retries. The benchmark compares the ingress with it.
//
// With HEADERS=all it stores the ingress's message, with all headers that subscribers are promised; otherwise a message
// with its id only.
package main

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

func main() { log.Fatal(run()) }

func run() error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(os.Getenv("SECRET"), "whsec_"))
	if err != nil {
		return err
	}
	url, _, _ := strings.Cut(os.Getenv("NATS_URL"), ",")
	source := os.Getenv("SOURCE")
	p, err := connect(strings.TrimPrefix(url, "nats://"), "_INBOX."+source+".")
	if err != nil {
		return err
	}
	v := &verifier{sums: sync.Pool{New: func() any { return &sum{Hash: hmac.New(sha256.New, key)} }}}
	subject, whole := source+".events.", os.Getenv("HEADERS") == "all"
	server := fasthttp.Server{NoDefaultServerHeader: true, NoDefaultDate: true, Handler: func(c *fasthttp.RequestCtx) {
		h, body := &c.Request.Header, c.Request.Body()
		id := h.Peek("Webhook-Id")
		if !v.verify(id, h.Peek("Webhook-Timestamp"), h.Peek("Webhook-Signature"), body) {
			c.SetStatusCode(fasthttp.StatusUnauthorized)
			return
		}
		typ := member(body, `"eventType":"`)
		headers := heads.Get().(*[]byte)
		defer heads.Put(headers)
		*headers = header((*headers)[:0], "Nats-Msg-Id", id)
		if whole {
			*headers = all(*headers, h, source, typ, body)
		}
		switch {
		case len(typ) == 0:
			c.SetStatusCode(fasthttp.StatusBadRequest)
		case p.publish(subject, typ, *headers, body) != nil:
			c.SetStatusCode(fasthttp.StatusServiceUnavailable)
		default:
			c.SetStatusCode(fasthttp.StatusNoContent)
		}
	}}
	go func() { log.Fatal(server.ListenAndServe(os.Getenv("LISTEN"))) }()
	return p.read()
}

// A verifier verifies signatures without allocating.
type verifier struct{ sums sync.Pool }

type sum struct {
	hash.Hash
	bytes   [sha256.Size]byte
	encoded [44]byte
}

func (v *verifier) verify(id, timestamp, signature, body []byte) bool {
	const tolerance = 300
	at, err := fasthttp.ParseUint(timestamp)
	if now := int(time.Now().Unix()); err != nil || at < now-tolerance || at > now+tolerance {
		return false
	}
	s := v.sums.Get().(*sum)
	defer v.sums.Put(s)
	s.Reset()
	_, _ = s.Write(id) // a hash never returns an error
	_, _ = s.Write(dot)
	_, _ = s.Write(timestamp)
	_, _ = s.Write(dot)
	_, _ = s.Write(body)
	base64.StdEncoding.Encode(s.encoded[:], s.Sum(s.bytes[:0]))
	return len(signature) > 3 && hmac.Equal(signature[len("v1,"):], s.encoded[:])
}

var dot = []byte(".")

// member is a member of a body, found where Codat's sender writes it and as it does.
func member(body []byte, name string) []byte {
	_, rest, _ := bytes.Cut(body, []byte(name))
	value, _, _ := bytes.Cut(rest, []byte(`"`))
	return value
}

var heads = sync.Pool{New: func() any { return new([]byte) }}

func header[T string | []byte](to []byte, name string, value T) []byte {
	return append(append(append(append(to, name...), ": "...), value...), "\r\n"...)
}

// all adds the headers of an event beside its id.
func all(to []byte, h *fasthttp.RequestHeader, source string, typ, body []byte) []byte {
	id := h.Peek("Webhook-Id")
	to = header(to, "webhook-id", id)
	to = header(to, "webhook-timestamp", h.Peek("Webhook-Timestamp"))
	to = header(to, "webhook-signature", h.Peek("Webhook-Signature"))
	to = header(to, "ce-specversion", "1.0")
	to = header(to, "ce-id", id)
	to = append(append(append(to, "ce-source: /headgate/"...), source...), "\r\n"...)
	to = header(to, "ce-type", typ)
	to = header(to, "ce-time", member(body, `"generatedDate":"`))
	_, company, _ := bytes.Cut(body, []byte(`"referenceCompany":`))
	to = header(to, "ce-subject", member(company, `"id":"`))
	to = header(to, "ce-connectionid", member(body, `"connectionId":"`))
	_, payload, _ := bytes.Cut(body, []byte(`"payload":`))
	to = header(to, "ce-pushoperationkey", member(payload, `"id":"`))
	to = append(to, "ce-receivedtime: "...)
	to = append(time.Now().UTC().AppendFormat(to, time.RFC3339Nano), "\r\n"...)
	return header(to, "content-type", h.ContentType())
}

// publisher writes what all requests publish to one connection, and gives each its ack.
type publisher struct {
	nc    net.Conn
	in    *bufio.Reader
	inbox string // of this process alone
	free  chan int
	slots []chan error

	mu      sync.Mutex
	out     []byte
	waiting chan struct{} // has something when there is something in out
}

// window is how many publishes can be in flight.
const window = 4096

func connect(address, inbox string) (*publisher, error) {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	p := &publisher{
		nc: nc, in: bufio.NewReaderSize(nc, 64<<10),
		inbox: inbox, free: make(chan int, window), slots: make([]chan error, window), waiting: make(chan struct{}, 1),
	}
	for i := range p.slots {
		p.slots[i] = make(chan error, 1)
		p.free <- i
	}
	if _, err := p.in.ReadSlice('\n'); err != nil { // INFO
		return nil, err
	}
	_, err = nc.Write([]byte(`CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"name":"bound","lang":"none","version":"0"}` +
		"\r\nSUB " + inbox + "* 1\r\n"))
	go p.write()
	return p, err
}

func (p *publisher) publish(subject string, typ, headers, body []byte) error {
	slot := <-p.free
	const head, end = "NATS/1.0\r\n", "\r\n"
	size := len(head) + len(headers) + len(end)
	p.mu.Lock()
	p.out = append(append(append(p.out, "HPUB "...), subject...), typ...)
	p.out = strconv.AppendInt(append(append(p.out, ' '), p.inbox...), int64(slot), 10)
	p.out = strconv.AppendInt(append(p.out, ' '), int64(size), 10)
	p.out = strconv.AppendInt(append(p.out, ' '), int64(size+len(body)), 10)
	p.out = append(append(append(append(p.out, "\r\n"+head...), headers...), end...), body...)
	p.out = append(p.out, "\r\n"...)
	p.mu.Unlock()
	select {
	case p.waiting <- struct{}{}:
	default:
	}
	err := <-p.slots[slot]
	p.free <- slot
	return err
}

// write writes everything that has come together since the last time.
func (p *publisher) write() {
	var writing []byte
	for range p.waiting {
		p.mu.Lock()
		writing, p.out = p.out, writing[:0]
		p.mu.Unlock()
		if _, err := p.nc.Write(writing); err != nil {
			log.Fatal(err)
		}
	}
}

var errRefused = errors.New("not stored")

// read reads acks until the connection ends.
func (p *publisher) read() error {
	for {
		line, err := p.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		switch {
		case bytes.HasPrefix(line, []byte("MSG ")), bytes.HasPrefix(line, []byte("HMSG ")):
			fields := bytes.Fields(line) // MSG subject sid size
			_, number, _ := bytes.Cut(fields[1], []byte(p.inbox))
			slot, err := strconv.Atoi(string(number))
			if err != nil {
				return fmt.Errorf("ack to %q: %w", fields[1], err)
			}
			size, err := strconv.Atoi(string(fields[len(fields)-1]))
			if err != nil {
				return fmt.Errorf("ack: %w", err)
			}
			ack, err := p.in.Peek(size)
			if err != nil {
				return err
			}
			var refused error
			if !bytes.HasPrefix(ack, []byte(`{"stream":`)) {
				refused = errRefused
			}
			p.slots[slot] <- refused
			if _, err := p.in.Discard(size + len("\r\n")); err != nil {
				return err
			}
		case bytes.HasPrefix(line, []byte("PING")):
			p.mu.Lock()
			p.out = append(p.out, "PONG\r\n"...)
			p.mu.Unlock()
			select {
			case p.waiting <- struct{}{}:
			default:
			}
		case bytes.HasPrefix(line, []byte("-ERR")):
			return fmt.Errorf("server: %s", line)
		}
	}
}
