package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// A forgery is a request that proves nothing. make changes the headers of a signed request, and returns the body to post.
type forgery struct {
	name string
	make func(f forger, h http.Header, body []byte) []byte
}

// A forger has what a forger who has seen one request has, and a key that is not the receiver's.
type forger struct {
	own  signature.Key // the receiver's, for what an own clock or an own tool would sign
	wild signature.Key
	now  time.Time
}

var forgeries = []forgery{
	{"without a signature", func(_ forger, h http.Header, body []byte) []byte {
		h.Del(stream.HeaderWebhookSignature)
		return body
	}},
	{"with an empty signature", func(_ forger, h http.Header, body []byte) []byte {
		h.Set(stream.HeaderWebhookSignature, "v1,")
		return body
	}},
	{"signed with another key", func(f forger, h http.Header, body []byte) []byte {
		h.Set(stream.HeaderWebhookSignature, f.wild.Sign(h.Get(stream.HeaderWebhookID), f.now, body))
		return body
	}},
	{"changed after it was signed", func(_ forger, _ http.Header, body []byte) []byte {
		return append(bytes.Clone(body), ' ')
	}},
	{"under another webhook-id", func(_ forger, h http.Header, body []byte) []byte {
		h.Set(stream.HeaderWebhookID, signature.NewID())
		return body
	}},
	{"an hour old", func(f forger, h http.Header, body []byte) []byte {
		return signAt(f, h, body, f.now.Add(-time.Hour))
	}},
	{"an hour ahead", func(f forger, h http.Header, body []byte) []byte {
		return signAt(f, h, body, f.now.Add(time.Hour))
	}},
	{"kept for an hour, with a new timestamp", func(f forger, h http.Header, body []byte) []byte {
		signAt(f, h, body, f.now.Add(-time.Hour))
		h.Set(stream.HeaderWebhookTimestamp, strconv.FormatInt(f.now.Unix(), 10))
		return body
	}},
	{"with the bytes of id and timestamp shifted", func(_ forger, h http.Header, body []byte) []byte {
		h.Set(stream.HeaderWebhookID, h.Get(stream.HeaderWebhookID)+"."+h.Get(stream.HeaderWebhookTimestamp))
		return body
	}},
	{"with a signature of version v1a", func(_ forger, h http.Header, body []byte) []byte {
		h.Set(stream.HeaderWebhookSignature, "v1a,"+base64.StdEncoding.EncodeToString(make([]byte, 64)))
		return body
	}},
	{"unsigned as svix-id, and signed as another's", func(f forger, h http.Header, body []byte) []byte {
		id := signature.NewID()
		h.Set("Svix-Id", id)
		h.Set("Svix-Timestamp", h.Get(stream.HeaderWebhookTimestamp))
		h.Set("Svix-Signature", h.Get(stream.HeaderWebhookSignature))
		h.Del(stream.HeaderWebhookSignature)
		return body
	}},
}

func signAt(f forger, h http.Header, body []byte, at time.Time) []byte {
	h.Set(stream.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	h.Set(stream.HeaderWebhookSignature, f.own.Sign(h.Get(stream.HeaderWebhookID), at, body))
	return body
}

// sendForgeries posts each body in the way of each forgery, and returns an error when one was not refused.
func (c *sendCmd) sendForgeries(ctx context.Context, s *sender, bodies []examples.Example, each func(sendResult) error) error {
	wild := make([]byte, keyBytes)
	rand.Read(wild) // it never fails
	key, err := signature.ParseKey("whsec_" + base64.StdEncoding.EncodeToString(wild))
	if err != nil {
		return err
	}
	accepted, all := 0, 0
	for _, e := range bodies {
		for _, one := range forgeries {
			f := forger{own: s.key, wild: key, now: time.Now()}
			h := http.Header{}
			h.Set(stream.HeaderWebhookID, signature.NewID())
			signAt(f, h, e.Body, f.now)
			forged := e
			forged.Body = one.make(f, h, e.Body)
			sent, err := s.post(ctx, forged, h)
			if err != nil {
				return err
			}
			sent.Name, sent.Type, sent.Meaning = one.name, "", "refused"
			all++
			switch {
			case sent.Status/100 == 2:
				accepted++
				sent.Meaning = "ACCEPTED"
			case sent.Status != http.StatusUnauthorized:
				return process.Misconfigured(fmt.Errorf("%d is not the answer to a request that is not proven: %s", sent.Status, s.meaning(sent.Status)))
			}
			if err := each(sent); err != nil {
				return err
			}
		}
	}
	if accepted > 0 {
		return errors.New(plural(accepted, "forged request") + " of " + strconv.Itoa(all) + " accepted: this receiver does not verify signatures")
	}
	return nil
}
