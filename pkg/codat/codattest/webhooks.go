package codattest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/signature"
)

const (
	// webhookTimeout is how long an endpoint has to answer.
	webhookTimeout = 15 * time.Second
	// disableAfter is for how long every attempt must fail before an endpoint is disabled.
	disableAfter = 5 * 24 * time.Hour
	// slowDown is the shortest pause after a 429 or no answer.
	slowDown     = time.Minute
	maxEndpoints = 50
)

// schedulePauses are the pauses before each attempt to deliver a message, from the end of the one before.
var schedulePauses = []time.Duration{0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour}

// An Endpoint is a webhook consumer.
type Endpoint struct {
	URL         string
	Key         signature.Key // signs; what is created over the API gets a key of its own
	EventTypes  []string      // none are all
	CompanyTags []string      // key:value, one of which the event's company must have; none are all companies
}

type endpoint struct {
	Endpoint
	id, secret string
	disabled   bool
	deleted    bool
	failing    time.Time // since when every attempt has failed; zero after a success
	held       []func()  // attempts that became due while it was disabled
}

// A Message is an event on its way to the endpoints.
type Message struct {
	ID      string // webhook-id
	Type    string
	Company string // "" without one
	Body    []byte
}

// A Delivery is how a message is delivered beyond Codat's promise of at least once. Options.Speed divides Delay.
type Delivery struct {
	Delay  time.Duration // before the first attempt: messages behind it overtake it
	Copies int           // further deliveries after the endpoint has answered 2xx
}

// An Attempt is a request to an endpoint.
type Attempt struct {
	Endpoint string // id
	Message  string // webhook-id
	Type     string
	Number   int       // of the message, from 1; copies count on
	At       time.Time // of the clock
	Status   int       // 0 without an answer
}

// AddEndpoint adds an endpoint, as in Codat's Portal, and returns its id.
func (s *Server) AddEndpoint(e Endpoint) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	added := &endpoint{Endpoint: e, id: uuid.NewString()}
	s.endpoints = append(s.endpoints, added)
	return added.id
}

// Secret returns the signing secret of an endpoint that was created over the API: as in Codat, no call has it.
func (s *Server) Secret(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.endpoints {
		if e.id == id {
			return e.secret
		}
	}
	return ""
}

// SetDisabled disables or enables an endpoint. Nothing is attempted while it is disabled: attempts that become due follow when
// it is enabled, and events of that time are missed.
func (s *Server) SetDisabled(id string, disabled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.endpoints {
		if e.id != id {
			continue
		}
		e.disabled = disabled
		if !disabled {
			e.failing = time.Time{}
			for _, attempt := range e.held {
				s.time.after(0, attempt)
			}
			e.held = nil
		}
	}
}

// Attempts returns every request to an endpoint, in the order in which they ended.
func (s *Server) Attempts() []Attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.attempts)
}

// Emit sends an event of a company, or with "" of the client, whose body is the caller's.
func (s *Server) Emit(typ, company string, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(Message{ID: signature.NewID(), Type: typ, Company: company, Body: body})
}

// emit sends an event with a payload. The caller holds the mutex.
func (s *Server) emit(typ string, company *Company, payload map[string]any) {
	s.send(s.message(typ, company, payload))
}

// message is a message of now.
func (s *Server) message(typ string, company *Company, payload map[string]any) Message {
	body, err := json.Marshal(map[string]any{"id": uuid.NewString(), "eventType": typ, "generatedDate": date(s.time.Now()), "payload": payload})
	if err != nil {
		panic(err) // maps of texts and numbers
	}
	m := Message{ID: signature.NewID(), Type: typ, Body: body}
	if company != nil {
		m.Company = company.ID
	}
	return m
}

func (s *Server) emitQuota(typ string, remaining int64, expiry time.Time) {
	s.emit(typ, nil, map[string]any{"dailyQuota": s.quota(), "quotaRemaining": remaining, "expiryDate": date(expiry)})
}

// writeEvent is the message of an operation's status. The caller holds the mutex.
func (s *Server) writeEvent(op *operation) Message {
	end := ".write.unsuccessful"
	var record any
	if op.Status == codat.Success {
		end, record = ".write.successful", map[string]any{"id": op.Record}
	}
	var attachment any
	if op.attachment != "" {
		attachment = op.attachment
	}
	company := s.companies[op.Company]
	return s.message(string(op.DataType)+end, company, map[string]any{
		"id": op.Key, "type": op.Type, "referenceCompany": company.reference(), "connectionId": op.Connection,
		"requestedOnDate": date(op.requested), "completedOnDate": date(op.completed), "status": op.Status, "record": record, "attachmentId": attachment,
	})
}

// reference is a company as events show it.
func (c *Company) reference() map[string]any {
	return map[string]any{"id": c.ID, "name": c.Name, "description": "", "links": map[string]any{"portal": "https://portal.codat.example/companies/" + c.ID}, "tags": c.Tags}
}

// send begins the delivery of a message to each endpoint that wants it. The caller holds the mutex.
func (s *Server) send(m Message) {
	var how Delivery
	if s.options.Delivery != nil {
		how = s.options.Delivery(m)
	}
	for _, e := range s.endpoints {
		if e.deleted || e.disabled || !e.wants(m, s.companies[m.Company]) {
			continue
		}
		d := &delivery{Message: m, to: e, copies: how.Copies}
		s.time.after(s.scaled(how.Delay), func() { s.attempt(d) })
	}
}

func (s *Server) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) / s.options.Speed)
}

func (e *endpoint) wants(m Message, company *Company) bool {
	if len(e.EventTypes) > 0 && !slices.Contains(e.EventTypes, m.Type) {
		return false
	}
	return len(e.CompanyTags) == 0 || slices.ContainsFunc(e.CompanyTags, func(tag string) bool {
		if company == nil {
			return false
		}
		for key, value := range company.Tags {
			if tag == key+":"+value {
				return true
			}
		}
		return false
	})
}

// A delivery is a message to one endpoint.
type delivery struct {
	Message
	to     *endpoint
	number int // of attempts
	failed int // of attempts since the last success
	copies int // that are left
}

// attempt makes one request, and plans the next.
func (s *Server) attempt(d *delivery) {
	s.mu.Lock()
	if d.to.disabled && !d.to.deleted {
		d.to.held = append(d.to.held, func() { s.attempt(d) })
		s.mu.Unlock()
		return
	}
	if d.to.deleted || s.ctx.Err() != nil {
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	status, retryAfter := s.post(d)

	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.time.Now()
	d.number++
	s.attempts = append(s.attempts, Attempt{Endpoint: d.to.id, Message: d.ID, Type: d.Type, Number: d.number, At: now, Status: status})
	if status/100 == 2 {
		d.to.failing, d.failed = time.Time{}, 0
		if d.copies > 0 {
			d.copies--
			s.time.after(0, func() { s.attempt(d) })
		}
		return
	}
	d.failed++
	if d.to.failing.IsZero() {
		d.to.failing = now
	}
	if now.Sub(d.to.failing) >= s.scaled(disableAfter) {
		d.to.disabled = true
	}
	if d.failed < len(schedulePauses) {
		base := schedulePauses[d.failed]
		pause := min(max(base, retryAfter), 2*base)
		if status == 0 || status == http.StatusTooManyRequests {
			pause = max(pause, slowDown)
		}
		s.time.after(s.scaled(pause), func() { s.attempt(d) })
	}
}

// post makes the request of an attempt, with a signature of its own. The status is 0 without an answer within 15 s.
func (s *Server) post(d *delivery) (status int, retryAfter time.Duration) {
	req, err := http.NewRequestWithContext(s.ctx, http.MethodPost, d.to.URL, bytes.NewReader(d.Body))
	if err != nil {
		return 0, 0
	}
	now := time.Now()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Svix-Webhooks/codattest")
	req.Header.Set("webhook-id", d.ID)
	req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("webhook-signature", d.to.Key.Sign(d.ID, now, d.Body))
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	seconds, _ := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31)
	return resp.StatusCode, time.Duration(seconds) * time.Second
}

func (e *endpoint) json() map[string]any {
	return map[string]any{"id": e.id, "url": e.URL, "disabled": e.disabled, "eventTypes": e.EventTypes, "companyTags": e.CompanyTags}
}

func (s *Server) listWebhooks(request) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	results := []map[string]any{}
	for _, e := range s.endpoints {
		if !e.deleted {
			results = append(results, e.json())
		}
	}
	return reply{status: http.StatusOK, body: map[string]any{"results": results}}
}

func (s *Server) createWebhook(r request) reply {
	var wanted struct {
		URL         string   `json:"url"`
		Disabled    bool     `json:"disabled"`
		EventTypes  []string `json:"eventTypes"`
		CompanyTags []string `json:"companyTags"`
	}
	if err := json.Unmarshal(r.body, &wanted); err != nil || wanted.URL == "" || len(wanted.CompanyTags) > 10 {
		return refuse(http.StatusBadRequest, "the consumer is not valid")
	}
	bytes := make([]byte, 24)
	rand.Read(bytes) // it never fails
	secret := "whsec_" + base64.StdEncoding.EncodeToString(bytes)
	key, err := signature.ParseKey(secret)
	if err != nil {
		return refuse(http.StatusInternalServerError, err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints = slices.DeleteFunc(s.endpoints, func(e *endpoint) bool { return e.deleted })
	if len(s.endpoints) >= maxEndpoints {
		return refuse(http.StatusBadRequest, "there are 50 consumers")
	}
	e := &endpoint{
		Endpoint: Endpoint{URL: wanted.URL, Key: key, EventTypes: wanted.EventTypes, CompanyTags: wanted.CompanyTags},
		id:       uuid.NewString(), secret: secret, disabled: wanted.Disabled,
	}
	s.endpoints = append(s.endpoints, e)
	return reply{status: http.StatusCreated, body: e.json()}
}

func (s *Server) deleteWebhook(r request) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.endpoints {
		if e.id == r.PathValue("id") && !e.deleted {
			e.deleted = true
			return reply{status: http.StatusNoContent}
		}
	}
	return refuse(http.StatusNotFound, "no such consumer")
}
