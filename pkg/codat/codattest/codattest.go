// Package codattest is a stand-in for Codat: its API over HTTP, as far as package api calls it, with the idempotency, the
// asynchronous pushes and the quota that Codat documents; and its webhooks, signed and tried again as Codat does. It is for
// tests and for development, keeps everything in memory, and must not be reachable by others. What a push becomes is
// scripted, and its clock can be moved by hand, so that 90 minutes of memory and 28 hours of retries take no time.
package codattest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/codat"
)

// Options are the settings of a stand-in. The zero Options are usable.
type Options struct {
	Listen string // host:port; "" is a free port of 127.0.0.1
	Key    string // API key; "" accepts DefaultKey
	// Clock is the time of everything but signatures, which have the real time. Nil is the real time.
	Clock *Clock
	// Outcome says what becomes of a push; false leaves it to markers in the body, ByDataType, and Succeed. It may be
	// called by several goroutines at once.
	Outcome func(Push) (Outcome, bool)
	// ByDataType says what becomes of the pushes of a data type.
	ByDataType map[codat.DataType]Outcome
	// Quota is the daily quota of calls; 0 is Codat's: 1,000, and 1,000 more for each company.
	Quota int64
	// Speed divides the pauses of the webhooks' schedule; 0 is 1. At 1,000, the eight attempts take 100 s and not 28 h.
	Speed float64
	// Changed is called with each operation that is made, and when its status changes, before its webhook is sent. It may be
	// called by several goroutines at once.
	Changed func(Push)
	// Delivery says how a message is delivered; nil is once and in order, as long as the endpoint answers 2xx.
	Delivery func(Message) Delivery
}

// DefaultKey is the API key that a stand-in without Options.Key accepts.
const DefaultKey = "codattest-key"

// A Company is a company with its connections, whose status is Linked until SetConnection.
type Company struct {
	ID          string
	Name        string
	Tags        map[string]string
	Connections []string // ids
}

// A Server is a running stand-in. It is safe for concurrent use.
type Server struct {
	options Options
	time    schedule
	http    *http.Server
	address string
	client  *http.Client // for webhooks
	ctx     context.Context
	stop    context.CancelFunc
	serving sync.WaitGroup

	mu        sync.Mutex
	companies map[string]*Company
	statuses  map[string]codat.ConnectionStatus // by company and connection; without one, Linked
	inside    map[string]int                    // calls in progress of each company
	memory    map[string]*remembered
	pushes    []*operation
	records   map[string]bool // company, connection, data type and id
	asked     int             // pushes, ever
	pulls     []*pull
	endpoints []*endpoint
	attempts  []Attempt
	used      int64     // calls of the day
	day       time.Time // that used counts
	reached   bool      // the quota, today
}

// Start starts a stand-in. Close it.
func Start(o Options) (*Server, error) {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.Key == "" {
		o.Key = DefaultKey
	}
	if o.Speed <= 0 {
		o.Speed = 1
	}
	listener, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("stand-in for Codat: %w", err)
	}
	s := &Server{
		options: o, time: newRealTime(), address: listener.Addr().String(),
		companies: map[string]*Company{}, statuses: map[string]codat.ConnectionStatus{}, inside: map[string]int{}, memory: map[string]*remembered{}, records: map[string]bool{},
		client: &http.Client{
			Timeout:       webhookTimeout,
			Transport:     http.DefaultTransport.(*http.Transport).Clone(),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if o.Clock != nil {
		s.time = o.Clock
	}
	s.day = midnight(s.time.Now())
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.http = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second}
	s.serving.Go(func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // the listener is the server's own
		}
	})
	return s, nil
}

// URL is the base URL of the API.
func (s *Server) URL() string { return "http://" + s.address }

// Close ends all calls, pushes and deliveries, and waits for them.
func (s *Server) Close() {
	s.mu.Lock()
	s.stop() // no call begins from here on
	s.mu.Unlock()
	_ = s.http.Close() // nothing depends on the connections that it closes
	s.time.stop()
	s.serving.Wait()
	s.client.CloseIdleConnections()
}

func (s *Server) changed(p Push) {
	if s.options.Changed != nil {
		s.options.Changed(p)
	}
}

// AddCompany adds a company, or replaces it.
func (s *Server) AddCompany(c Company) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Tags, c.Connections = maps.Clone(c.Tags), slices.Clone(c.Connections)
	s.companies[c.ID] = &c
}

// RemoveCompany removes a company, as a deletion in the Portal does. It sends no event.
func (s *Server) RemoveCompany(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.companies, id)
}

// SetConnection gives a connection a status, as a platform does that ends a connection on its side. It sends no event. A
// connection that the company does not have is added.
func (s *Server) SetConnection(company, connection string, status codat.ConnectionStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.companies[company]; c != nil && !slices.Contains(c.Connections, connection) {
		c.Connections = append(c.Connections, connection)
	}
	s.statuses[company+"\x00"+connection] = status
}

// AddRecord adds a record to a platform, for updates and deletes.
func (s *Server) AddRecord(company, connection string, dataType codat.DataType, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[recordKey(company, connection, dataType, id)] = true
}

// Records returns how many records of a data type there are in a platform.
func (s *Server) Records(company, connection string, dataType codat.DataType) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for key := range s.records {
		if strings.HasPrefix(key, recordKey(company, connection, dataType, "")) {
			count++
		}
	}
	return count
}

func recordKey(company, connection string, dataType codat.DataType, id string) string {
	return strings.Join([]string{company, connection, string(dataType), id}, "\x00")
}

// date is a date as Codat writes it.
func date(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }
