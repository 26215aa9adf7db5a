// Package load makes load: requests that are signed before they are sent, connections that stay open, and a pace.
// Every request is sent once, and its latency counts from when it should have started, so that a server which stalls
// cannot hide it.
package load

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Type is the type of the events that are sent.
const Type = "invoices.write.successful"

// The places in a request that differ from one to the next. All are of a fixed length, so that a request is a copy of
// the first one with these overwritten.
const (
	idForm        = "msg_@@@@@@@@@@@@@@@@@@@@@@@@@@@"
	timestampForm = "##########"
	signatureForm = "v1,~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~"
	eventForm     = "@@@@@@@@-0000-4000-8000-@@@@@@@@@@@@"
	pushForm      = "&&&&&&&&-0000-4000-8000-&&&&&&&&&&&&"
	padForm       = "%"
)

const body = `{"id":"` + eventForm + `","eventType":"` + Type + `","generatedDate":"2026-02-03T10:20:00.1234Z",` +
	`"payload":{"id":"` + pushForm + `","type":"Create",` +
	`"referenceCompany":{"id":"c0ffee00-0000-4000-8000-00000000000a","name":"Larkspur Bakery"},` +
	`"connectionId":"ca5cade0-0000-4000-8000-00000000000a","status":"Success","record":{"id":"` + padForm + `"}}}`

// MinSize is the size of the smallest body, in bytes.
const MinSize = len(body) - len(padForm)

const header = "POST /webhooks/codat HTTP/1.1\r\nHost: headgate\r\nUser-Agent: Svix-Webhooks/1.84.0\r\nAccept: */*\r\n" +
	"Content-Type: application/json\r\nWebhook-Id: " + idForm + "\r\nWebhook-Timestamp: " + timestampForm +
	"\r\nWebhook-Signature: " + signatureForm + "\r\nContent-Length: "

// A place is a part of a request.
type place struct{ from, to int }

// A Signer writes requests as Codat's sender does, each with an id, an event id, a push operation and a text of its own. Use one for
// everything that goes into one stream: its ids never come again.
type Signer struct {
	keys                           [][]byte
	request                        []byte
	id, timestamp, signature, body place
	event, push, pad               place
	text                           []byte // what the pads are cut from
	run                            string
	signed                         uint64
}

// NewSigner makes a signer with a key as Codat shows it, whsec_ and base64, for bodies of size bytes. With more keys it
// signs with all of them in turn.
func NewSigner(secret string, size int, more ...string) (*Signer, error) {
	var keys [][]byte
	for _, one := range append([]string{secret}, more...) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(one, "whsec_"))
		if err != nil {
			return nil, fmt.Errorf("key of the signer: %w", err)
		}
		keys = append(keys, key)
	}
	if size < MinSize {
		return nil, fmt.Errorf("bodies of %d bytes: an event has at least %d", size, MinSize)
	}
	padded := strings.Replace(body, padForm, strings.Repeat(padForm, size-MinSize), 1)
	request := []byte(header + strconv.Itoa(size) + "\r\n\r\n" + padded)
	find := func(form string) place {
		at := bytes.Index(request, []byte(form))
		return place{at, at + len(form)}
	}
	s := &Signer{
		keys: keys, request: request, run: rand.Text()[:9],
		id: find(idForm), timestamp: find(timestampForm), signature: find(signatureForm), event: find(eventForm), push: find(pushForm),
		pad:  find(strings.Repeat(padForm, size-MinSize)),
		body: place{len(request) - size, len(request)},
		text: []byte(strings.Repeat(rand.Text(), size/26+64)),
	}
	return s, nil
}

// NewSecret makes a key as Codat shows it.
func NewSecret() string {
	key := make([]byte, 24)
	_, _ = rand.Read(key) // it never fails
	return "whsec_" + base64.StdEncoding.EncodeToString(key)
}

// A Batch is requests that are ready to be sent.
type Batch struct {
	bytes []byte
	size  int // of one
}

// Len is how many requests there are.
func (b *Batch) Len() int {
	if b.size == 0 {
		return 0
	}
	return len(b.bytes) / b.size
}

// Request is the request number i, as it goes over the wire.
func (b *Batch) Request(i int) []byte { return b.bytes[i*b.size : (i+1)*b.size] }

// Sign fills a batch with n new requests that are signed at a time. What was in the batch is overwritten.
func (s *Signer) Sign(b *Batch, n int, at time.Time) {
	b.size = len(s.request)
	b.bytes = slices.Grow(b.bytes[:0], n*b.size)[:n*b.size]
	timestamp := strconv.FormatInt(at.Unix(), 10)
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			var macs []hash.Hash
			for _, key := range s.keys {
				macs = append(macs, hmac.New(sha256.New, key))
			}
			for i := w * n / workers; i < (w+1)*n/workers; i++ {
				number := s.signed + uint64(i)
				s.write(b.Request(i), number, timestamp, macs[number%uint64(len(macs))])
			}
		})
	}
	wg.Wait()
	s.signed += uint64(n)
}

// write writes the request with a number.
func (s *Signer) write(r []byte, number uint64, timestamp string, mac hash.Hash) {
	copy(r, s.request)
	digits := fmt.Appendf(make([]byte, 0, 32), "%018d", number)
	id := r[s.id.from:s.id.to]
	copy(id[len("msg_"):], s.run)
	copy(id[len("msg_")+len(s.run):], digits)
	copy(r[s.timestamp.from:s.timestamp.to], timestamp)
	copy(r[s.event.from:], digits[10:])
	copy(r[s.event.to-12:s.event.to], digits[6:])
	copy(r[s.push.from:s.push.to], r[s.event.from:s.event.to])
	copy(r[s.pad.from:s.pad.to], s.text[number%(64*26):])

	mac.Reset()
	_, _ = mac.Write(id) // a hash never returns an error
	_, _ = mac.Write([]byte("." + timestamp + "."))
	_, _ = mac.Write(r[s.body.from:s.body.to])
	var sum [sha256.Size]byte
	base64.StdEncoding.Encode(r[s.signature.from+len("v1,"):s.signature.to], mac.Sum(sum[:0]))
}

// Read reads a request that was written here.
func Read(request []byte) (http.Header, []byte, error) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(r.Body)
	return r.Header, body, err
}
