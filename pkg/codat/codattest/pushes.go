package codattest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/headgate/headgate/pkg/codat"
)

// A Push is a write that was asked for.
type Push struct {
	Number         int    // of the push, from 1, in the order in which the stand-in was asked
	Key            string // push operation key; "" until the operation is made
	IdempotencyKey string // "" without one; no answer has it
	Company        string
	Connection     string
	DataType       codat.DataType
	Type           codat.WriteType
	Record         string // of an update, delete or attachment; of a create once it has succeeded
	Body           []byte
	Status         codat.PushStatus // "" until the operation is made
}

// An Outcome is what becomes of a push: the answer, and then the ends of the operation.
type Outcome struct {
	Refuse     int           // status of the answer in place of 200; the operation is not made unless Made
	RetryAfter time.Duration // of a 429
	Message    string        // of the error
	Made       bool          // the operation is made although the answer is an error
	HangUp     bool          // the operation is made, and the connection closes in place of the answer
	// Hold delays the answer until it is closed, after the operation is made, or the stand-in is closed.
	Hold <-chan struct{}
	Ends []End // in the order of their time; none leaves the operation Pending
}

// An End is a change of status of an operation, and the webhook that tells of it. An operation that is Success or Failed does
// not change any more; one that is TimedOut can.
type End struct {
	After   time.Duration // after the push
	Status  codat.PushStatus
	Message string // the reason of a failure, in errorMessage and validation
}

// Succeed is the outcome of a push that is written after d.
func Succeed(d time.Duration) Outcome { return Outcome{Ends: []End{{After: d, Status: codat.Success}}} }

// Fail is the outcome of a push that the platform refuses after d with a reason.
func Fail(d time.Duration, reason string) Outcome {
	return Outcome{Ends: []End{{After: d, Status: codat.Failed, Message: reason}}}
}

// TimeOut is the outcome of a push that times out after d, and whose record is never written.
func TimeOut(d time.Duration) Outcome {
	return Outcome{Ends: []End{{After: d, Status: codat.TimedOut}}}
}

// SucceedLate is the outcome of a push that times out after d, and whose record is written later after the push.
func SucceedLate(d, later time.Duration) Outcome {
	return Outcome{Ends: []End{{After: d, Status: codat.TimedOut}, {After: later, Status: codat.Success}}}
}

// StayPending is the outcome of a push that does not end, unless it has timeoutInMinutes.
func StayPending() Outcome { return Outcome{} }

// Refuse is the outcome of a push that is answered with a status, and not made.
func Refuse(status int, message string) Outcome { return Outcome{Refuse: status, Message: message} }

// defaultDelay is how long a push is Pending without a script.
const defaultDelay = 2 * time.Second

// markers are outcomes that a body asks for: a text that it has anywhere in it.
var markers = map[string]Outcome{
	"codattest:success":  Succeed(defaultDelay),
	"codattest:failed":   Fail(defaultDelay, "the platform refused the record"),
	"codattest:timedout": TimeOut(defaultDelay),
	"codattest:late":     SucceedLate(defaultDelay, 3*defaultDelay),
	"codattest:pending":  StayPending(),
	"codattest:400":      Refuse(http.StatusBadRequest, "the body is not valid"),
	"codattest:429":      {Refuse: http.StatusTooManyRequests, RetryAfter: defaultDelay, Message: "the platform's limit"},
	"codattest:500":      Refuse(http.StatusInternalServerError, "internal error"),
}

func (s *Server) outcome(p Push) Outcome {
	if s.options.Outcome != nil {
		if o, ok := s.options.Outcome(p); ok {
			return o
		}
	}
	for marker, o := range markers {
		if bytes.Contains(p.Body, []byte(marker)) {
			return o
		}
	}
	if o, ok := s.options.ByDataType[p.DataType]; ok {
		return o
	}
	return Succeed(defaultDelay)
}

// An operation is a push that was made.
type operation struct {
	Push
	requested, completed time.Time
	timeout              int // minutes, 0 without
	message              string
	attachment           string // id
}

func (s *Server) create(r request) reply { return s.push(r, codat.WriteCreate) }
func (s *Server) update(r request) reply { return s.push(r, codat.WriteUpdate) }
func (s *Server) delete(r request) reply { return s.push(r, codat.WriteDelete) }

func (s *Server) attach(r request) reply {
	bills := r.PathValue("dataType") == string(codat.DataBills)
	if strings.HasSuffix(r.URL.Path, "s") != bills {
		return refuse(http.StatusNotFound, "no such call: the path ends with attachments for bills, and with attachment for others")
	}
	if _, err := r.MultipartReader(); err != nil {
		return refuse(http.StatusUnsupportedMediaType, "the body is no multipart form")
	}
	return s.push(r, codat.WriteUploadAttachment)
}

// push answers a write.
func (s *Server) push(r request, kind codat.WriteType) reply {
	p := Push{
		IdempotencyKey: r.Header.Get("Idempotency-Key"), Company: r.PathValue("company"), Connection: r.PathValue("connection"),
		DataType: codat.DataType(r.PathValue("dataType")), Type: kind, Record: r.PathValue("id"), Body: r.body,
	}
	if !p.DataType.Writable(kind) {
		return refuse(http.StatusBadRequest, "this data type cannot be written in this way")
	}
	if kind != codat.WriteDelete && kind != codat.WriteUploadAttachment && !object(r.body) {
		return refuse(http.StatusBadRequest, "the body is not a JSON object")
	}
	timeout, err := strconv.Atoi(r.URL.Query().Get("timeoutInMinutes"))
	if err != nil && r.URL.Query().Has("timeoutInMinutes") || timeout < 0 {
		return refuse(http.StatusBadRequest, "timeoutInMinutes is not a number")
	}
	s.mu.Lock()
	if p.Record != "" && !s.records[recordKey(p.Company, p.Connection, p.DataType, p.Record)] {
		s.mu.Unlock()
		return refuse(http.StatusNotFound, "no such record")
	}
	s.asked++
	p.Number = s.asked
	s.mu.Unlock()
	o := s.outcome(p)
	answer := refuse(o.Refuse, o.Message)
	answer.retryAfter = o.RetryAfter
	if o.Refuse == 0 || o.Made {
		made := s.begin(p, o, timeout)
		if o.Refuse == 0 {
			answer = reply{status: http.StatusOK, body: made}
		}
	}
	if o.Hold != nil {
		select {
		case <-o.Hold:
		case <-s.ctx.Done():
		}
	}
	answer.hangUp = o.HangUp
	return answer
}

// begin makes the operation of a push, and returns what Codat answers.
func (s *Server) begin(p Push, o Outcome, timeout int) map[string]any {
	p.Key, p.Status = uuid.NewString(), codat.Pending
	s.changed(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	op := &operation{Push: p, requested: s.time.Now(), timeout: timeout}
	s.pushes = append(s.pushes, op)
	for _, end := range o.Ends {
		s.time.after(end.After, func() { s.end(op, end) })
	}
	if timeout > 0 {
		s.time.after(time.Duration(timeout)*time.Minute, func() { s.end(op, End{Status: codat.TimedOut}) })
	}
	answer := op.json()
	if object(p.Body) {
		answer["data"] = json.RawMessage(p.Body)
	}
	return answer
}

// end changes the status of an operation, and sends the webhook of it.
func (s *Server) end(op *operation, e End) {
	s.mu.Lock()
	if op.Status.IsSettled() || op.Status == e.Status {
		s.mu.Unlock()
		return
	}
	op.Status, op.completed, op.message = e.Status, s.time.Now(), e.Message
	if e.Status == codat.Success {
		s.write(op)
	}
	body, push := s.writeEvent(op), op.Push
	s.mu.Unlock()
	s.changed(push)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(body)
}

// write changes the records of the platform.
func (s *Server) write(op *operation) {
	switch op.Type {
	case codat.WriteCreate:
		op.Record = strconv.Itoa(1000 + op.Number)
		s.records[recordKey(op.Company, op.Connection, op.DataType, op.Record)] = true
	case codat.WriteDelete:
		delete(s.records, recordKey(op.Company, op.Connection, op.DataType, op.Record))
	case codat.WriteUploadAttachment:
		op.attachment = uuid.NewString()
	}
}

// Pushes returns the operations that were made, in their order, as they are now.
func (s *Server) Pushes() []Push {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Push
	for _, op := range s.pushes {
		all = append(all, op.Push)
	}
	return all
}

// changeTypes are the kinds of write in the words of push operations.
var changeTypes = map[codat.WriteType]string{
	codat.WriteCreate: "Created", codat.WriteUpdate: "Modified", codat.WriteDelete: "Deleted", codat.WriteUploadAttachment: "AttachmentUploaded",
}

// json is the operation as Codat's API shows it: without the idempotency key.
func (op *operation) json() map[string]any {
	code := map[codat.PushStatus]int{codat.Pending: 202, codat.Success: 200, codat.Failed: 400, codat.TimedOut: 408}
	body := map[string]any{
		"pushOperationKey": op.Key, "companyId": op.Company, "dataConnectionKey": op.Connection, "dataType": op.DataType,
		"requestedOnUtc": date(op.requested), "completedOnUtc": nil, "timeoutInMinutes": nil, "timeoutInSeconds": nil,
		"status": op.Status, "statusCode": code[op.Status], "errorMessage": nil, "validation": map[string]any{"errors": []any{}, "warnings": []any{}},
		"changes": []any{},
	}
	if op.timeout > 0 {
		body["timeoutInMinutes"] = op.timeout
	}
	if op.Status != codat.Pending {
		body["completedOnUtc"] = date(op.completed)
	}
	if op.message != "" {
		body["errorMessage"] = op.message
		body["validation"] = map[string]any{"errors": []any{map[string]any{"itemId": op.DataType, "message": op.message, "validatorName": "Platform"}}, "warnings": []any{}}
	}
	if op.Status == codat.Success {
		change := map[string]any{"type": changeTypes[op.Type], "recordRef": map[string]any{"id": op.Record, "dataType": op.DataType}, "attachmentId": nil}
		if op.attachment != "" {
			change["attachmentId"] = op.attachment
		}
		body["changes"] = []any{change}
	}
	return body
}

func (s *Server) getPush(r request) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range s.pushes {
		if op.Company == r.PathValue("company") && op.Key == r.PathValue("key") {
			return reply{status: http.StatusOK, body: op.json()}
		}
	}
	return refuse(http.StatusNotFound, "no such push operation")
}

// listPushes answers the history of a company, which has no idempotency keys. It understands queries of clauses that are
// joined with && and compare one member with a value, and the order by requestedOnUtc.
func (s *Server) listPushes(r request) reply {
	s.mu.Lock()
	var results []map[string]any
	for _, op := range s.pushes {
		if op.Company == r.PathValue("company") {
			results = append(results, op.json())
		}
	}
	s.mu.Unlock()
	if query := r.URL.Query().Get("query"); query != "" {
		for clause := range strings.SplitSeq(query, "&&") {
			match, err := parseClause(clause)
			if err != nil {
				return refuse(http.StatusBadRequest, err.Error())
			}
			results = slices.DeleteFunc(results, func(op map[string]any) bool { return !match(op) })
		}
	}
	switch r.URL.Query().Get("orderBy") {
	case "", "requestedOnUtc":
	case "-requestedOnUtc":
		slices.Reverse(results)
	default:
		return refuse(http.StatusBadRequest, "orderBy must be requestedOnUtc or -requestedOnUtc")
	}
	return page(r, results)
}

// parseClause reads one comparison of a query. Dates are compared as times, and other members as text.
func parseClause(clause string) (match func(op map[string]any) bool, err error) {
	for _, operator := range []string{">=", "<=", "!=", "=", ">", "<"} {
		name, value, ok := strings.Cut(clause, operator)
		if !ok {
			continue
		}
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !slices.Contains([]string{"status", "dataType", "dataConnectionKey", "pushOperationKey", "requestedOnUtc"}, name) {
			return nil, fmt.Errorf("the query has a member that is not known")
		}
		if name == "requestedOnUtc" {
			at, err := time.Parse(time.RFC3339, value)
			if err != nil {
				return nil, fmt.Errorf("the query compares requestedOnUtc with no date")
			}
			value = date(at)
		}
		return func(op map[string]any) bool {
			order := strings.Compare(fmt.Sprint(op[name]), value)
			switch operator {
			case "=":
				return order == 0
			case "!=":
				return order != 0
			case ">":
				return order > 0
			case "<":
				return order < 0
			case ">=":
				return order >= 0
			}
			return order <= 0
		}, nil
	}
	return nil, fmt.Errorf("the query has a clause without a comparison")
}
