package codattest

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	// memoryTime is how long an answer is remembered for its idempotency key.
	memoryTime = 90 * time.Minute
	// maxConcurrent is how many calls a company may have in progress.
	maxConcurrent = 10
	maxBody       = 10 << 20
)

// A request is a call with its body.
type request struct {
	*http.Request
	body []byte
}

// A reply is an answer. Its body is JSON, unless it is nil.
type reply struct {
	status     int
	body       any
	retryAfter time.Duration // with 429
	hangUp     bool          // the connection is closed in place of an answer
}

// routes are the calls that the stand-in answers.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, handle := range map[string]func(request) reply{
		"POST /companies/{company}/connections/{connection}/push/{dataType}":                  s.create,
		"PUT /companies/{company}/connections/{connection}/push/{dataType}/{id}":              s.update,
		"DELETE /companies/{company}/connections/{connection}/push/{dataType}/{id}":           s.delete,
		"POST /companies/{company}/connections/{connection}/push/{dataType}/{id}/attachment":  s.attach,
		"POST /companies/{company}/connections/{connection}/push/{dataType}/{id}/attachments": s.attach,
		"GET /companies/{company}/push/{key}":                                                 s.getPush,
		"GET /companies/{company}/push":                                                       s.listPushes,
		"GET /companies/{company}/connections/{connection}/options/{dataType}":                s.getOptions,
		"GET /companies/{company}/connections":                                                s.listConnections,
		"GET /companies/{company}/dataStatus":                                                 s.dataStatus,
		"GET /companies/{company}/data/history":                                               s.dataHistory,
		"POST /companies/{company}/data/all":                                                  s.refreshAll,
		"POST /companies/{company}/data/queue/{dataType}":                                     s.refresh,
		"GET /webhooks":         s.listWebhooks,
		"POST /webhooks":        s.createWebhook,
		"DELETE /webhooks/{id}": s.deleteWebhook,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, handle) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.serve(w, r, func(request) reply { return refuse(http.StatusNotFound, "no such call") })
	})
	return mux
}

// serve answers one call.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, handle func(request) reply) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return // the client is gone
	}
	if !s.beginCall() {
		panic(http.ErrAbortHandler)
	}
	defer s.serving.Done()
	given := r.Header.Get("Authorization")
	var answer reply
	if given != "Basic "+base64.StdEncoding.EncodeToString([]byte(s.options.Key)) {
		answer = refuse(http.StatusUnauthorized, "the API key is not valid")
	} else {
		answer = s.limit(w.Header(), request{r, body}, handle)
	}
	if answer.hangUp {
		panic(http.ErrAbortHandler)
	}
	if answer.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((answer.retryAfter+time.Second-1)/time.Second)))
	}
	if answer.body == nil {
		w.WriteHeader(answer.status)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(answer.status)
	_ = json.NewEncoder(w).Encode(answer.body) // the client is gone
}

// beginCall counts a call, for which Close waits until serving.Done. It returns false after Close.
func (s *Server) beginCall() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.serving.Add(1)
	return true
}

// limit answers a call within the limits of the client and of the company.
func (s *Server) limit(h http.Header, r request, handle func(request) reply) reply {
	company := r.PathValue("company")
	s.mu.Lock()
	answer, ok := s.spend(h)
	if ok && company != "" {
		_, known := s.companies[company]
		switch {
		case !known:
			answer, ok = refuse(http.StatusNotFound, "no such company"), false
		case r.PathValue("connection") != "" && !slices.Contains(s.companies[company].Connections, r.PathValue("connection")):
			answer, ok = refuse(http.StatusNotFound, "no such connection"), false
		case s.inside[company] >= maxConcurrent:
			answer, ok = refuse(http.StatusTooManyRequests, "10 calls of this company are in progress"), false
			answer.retryAfter = time.Second
		}
	}
	if !ok {
		s.mu.Unlock()
		return answer
	}
	s.inside[company]++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.inside[company]--
	}()
	return s.once(r, handle)
}

// spend takes a call from the daily quota. The caller holds the mutex.
func (s *Server) spend(h http.Header) (reply, bool) {
	now := s.time.Now()
	if today := midnight(now); today.After(s.day) {
		s.day, s.used = today, 0
	}
	limit, reset := s.quota(), s.day.AddDate(0, 0, 1)
	h.Set("X-Rate-Limit-Limit", strconv.FormatInt(limit, 10))
	h.Set("X-Rate-Limit-Reset", date(reset))
	h.Set("X-Rate-Limit-Remaining", strconv.FormatInt(max(limit-s.used-1, 0), 10))
	if s.used < limit {
		s.used++
		return reply{}, true
	}
	if !s.reached {
		s.reached = true
		s.emitQuota("client.rateLimit.reached", 0, reset)
		s.time.after(reset.Sub(now), s.renew)
	}
	answer := refuse(http.StatusTooManyRequests, "the daily quota is used up")
	answer.retryAfter = reset.Sub(now)
	return answer, false
}

// renew renews the quota that was used up.
func (s *Server) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.day, s.used, s.reached = midnight(s.time.Now()), 0, false
	s.emitQuota("client.rateLimit.reset", s.quota(), s.day.AddDate(0, 0, 1))
}

func (s *Server) quota() int64 {
	if s.options.Quota > 0 {
		return s.options.Quota
	}
	return 1000 + 1000*int64(len(s.companies))
}

func midnight(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// remembered is the answer for an idempotency key.
type remembered struct {
	request [sha256.Size]byte
	answer  reply
	until   time.Time // zero while the call is in progress
}

var guid = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// once answers a call with an idempotency key once in 90 minutes. 4xx and 5xx are remembered too, and only a 429 frees the
// key.
func (s *Server) once(r request, handle func(request) reply) reply {
	keys := r.Header.Values("Idempotency-Key")
	switch {
	case len(keys) == 0:
		return handle(r)
	case r.Method != http.MethodPost && r.Method != http.MethodPatch:
		return refuse(http.StatusBadRequest, "Idempotency-Key is for POST and PATCH only")
	case len(keys) > 1:
		return refuse(http.StatusBadRequest, "more than one Idempotency-Key")
	case !guid.MatchString(keys[0]):
		return refuse(http.StatusBadRequest, "Idempotency-Key is not a GUID")
	}
	key := strings.ToLower(keys[0])
	hash := sha256.Sum256(slices.Concat([]byte(r.Method+" "+r.URL.RequestURI()+"\n"), r.body))
	s.mu.Lock()
	now := s.time.Now()
	m := s.memory[key]
	if m != nil && (m.until.IsZero() || now.Before(m.until)) {
		defer s.mu.Unlock()
		switch {
		case m.until.IsZero():
			return refuse(http.StatusConflict, "a call with this Idempotency-Key is in progress")
		case m.request != hash:
			return refuse(http.StatusUnprocessableEntity, "this Idempotency-Key was used for another request")
		}
		return m.answer
	}
	m = &remembered{request: hash}
	s.memory[key] = m
	s.mu.Unlock()
	answer := handle(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if answer.status == http.StatusTooManyRequests {
		delete(s.memory, key)
		return answer
	}
	m.answer, m.until = answer, s.time.Now().Add(memoryTime)
	m.answer.hangUp = false // the answer was made, although it was not sent
	return answer
}

// refuse is an answer with Codat's error body.
func refuse(status int, message string) reply {
	return reply{status: status, body: map[string]any{
		"statusCode": status, "service": "PublicApi", "error": message, "correlationId": uuid.NewString(),
		"validation": nil, "canBeRetried": "Unknown", "detailedErrorCode": 0,
	}}
}

// page returns a page of results, in Codat's envelope.
func page(r request, results []map[string]any) reply {
	query := r.URL.Query()
	number, size, err := 1, 100, error(nil)
	for name, to := range map[string]*int{"page": &number, "pageSize": &size} {
		if text := query.Get(name); text != "" && err == nil {
			*to, err = strconv.Atoi(text)
		}
	}
	if err != nil || number < 1 || size < 1 || size > 5000 {
		return refuse(http.StatusBadRequest, "page must be from 1, pageSize from 1 to 5000")
	}
	begin := min((number-1)*size, len(results))
	end := min(begin+size, len(results))
	self := map[string]string{"href": r.URL.RequestURI()}
	links := map[string]any{"self": self, "current": self}
	if end < len(results) {
		next := url.Values{}
		for name, values := range query {
			next[name] = values
		}
		next.Set("page", strconv.Itoa(number+1))
		links["next"] = map[string]string{"href": r.URL.Path + "?" + next.Encode()}
	}
	found := results[begin:end]
	if found == nil {
		found = []map[string]any{}
	}
	return reply{status: http.StatusOK, body: map[string]any{
		"results": found, "pageNumber": number, "pageSize": size, "totalResults": len(results), "_links": links,
	}}
}

// object reports whether a body is a JSON object.
func object(body []byte) bool {
	return json.Valid(body) && bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{"))
}
