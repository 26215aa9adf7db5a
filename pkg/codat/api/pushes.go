package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"strconv"

	"github.com/headgate/headgate/pkg/codat"
)

// A Target is where a write goes.
type Target struct {
	Company    string
	Connection string
	DataType   codat.DataType
	// TimeoutMinutes is after how long Codat says TimedOut of an operation that is still Pending. 0 leaves it to Codat.
	TimeoutMinutes int
}

// A PushOperation is a write. Codat does not say which idempotency key it was asked for with.
type PushOperation struct {
	PushOperationKey string           `json:"pushOperationKey"`
	Company          string           `json:"companyId"`
	Connection       string           `json:"dataConnectionKey"`
	DataType         codat.DataType   `json:"dataType"`
	Status           codat.PushStatus `json:"status"`
	StatusCode       int              `json:"statusCode"`
	Requested        codat.Time       `json:"requestedOnUtc"`
	Completed        codat.Time       `json:"completedOnUtc"`   // zero while Pending
	TimeoutMinutes   int              `json:"timeoutInMinutes"` // 0 when it has no limit
	ErrorMessage     string           `json:"errorMessage"`     // can be personal data
	Validation       Validation       `json:"validation"`
	Changes          []Change         `json:"changes"` // empty until something was written
}

// A Change is what a write has changed in the platform.
type Change struct {
	Type         ChangeType `json:"type"`
	Record       RecordRef  `json:"recordRef"`
	AttachmentID string     `json:"attachmentId"`
}

// A RecordRef names a record and its data type.
type RecordRef struct {
	ID       string         `json:"id"`
	DataType codat.DataType `json:"dataType"`
}

// ChangeType is the manner of a change. Values that are not among the constants are kept.
type ChangeType string

// The manners of a change.
const (
	ChangeUnknown            ChangeType = "Unknown"
	ChangeCreated            ChangeType = "Created"
	ChangeModified           ChangeType = "Modified"
	ChangeDeleted            ChangeType = "Deleted"
	ChangeAttachmentUploaded ChangeType = "AttachmentUploaded"
)

// A Page asks for a part of a list. The zero Page asks for the first 100.
type Page struct {
	Number  int    // from 1
	Size    int    // at most 5,000
	Query   string // Codat's query language, such as status=Pending
	OrderBy string // a member, with - before it for descending
}

func (p Page) values() url.Values {
	v := url.Values{"page": {strconv.Itoa(max(p.Number, 1))}, "pageSize": {"100"}}
	if p.Size > 0 {
		v.Set("pageSize", strconv.Itoa(p.Size))
	}
	if p.Query != "" {
		v.Set("query", p.Query)
	}
	if p.OrderBy != "" {
		v.Set("orderBy", p.OrderBy)
	}
	return v
}

// A List is a page of results. There are more when Total is above Number*Size.
type List[T any] struct {
	Results []T `json:"results"`
	Number  int `json:"pageNumber"`
	Size    int `json:"pageSize"`
	Total   int `json:"totalResults"`
}

// guid matches what Codat takes for an idempotency key.
var guid = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

var errNotGUID = errors.New("the idempotency key is not a GUID, such as 2f0c9d3e-6b1a-4c58-9a44-0e6f5a1d7b21")

// Create asks Codat to create a record with a body in Codat's model. The key is a GUID: the same key and body within 90
// minutes return the first answer, also when it was a 4xx or 5xx, except after a 429, which frees the key. The operation
// that Create returns is Pending with nearly every platform, and its end comes by webhook.
func (c *Client) Create(ctx context.Context, t Target, key string, body []byte) (PushOperation, error) {
	if !guid.MatchString(key) {
		return PushOperation{}, &invalidError{"Create", errNotGUID}
	}
	return c.push(ctx, t, call{name: "Create", method: http.MethodPost, key: key, body: body, contentType: "application/json"})
}

// Update asks Codat to replace the record with an id by a whole body. It may be repeated; Codat takes no idempotency key.
func (c *Client) Update(ctx context.Context, t Target, id string, body []byte) (PushOperation, error) {
	return c.push(ctx, t, call{name: "Update", method: http.MethodPut, path: []string{id}, body: body, contentType: "application/json"})
}

// Delete asks Codat to delete the record with an id. Codat takes no idempotency key; a record that is gone is ErrNotFound.
func (c *Client) Delete(ctx context.Context, t Target, id string) (PushOperation, error) {
	return c.push(ctx, t, call{name: "Delete", method: http.MethodDelete, path: []string{id}})
}

// An Attachment is a file.
type Attachment struct {
	Name        string
	ContentType string // such as application/pdf
	Content     []byte
}

// UploadAttachment attaches a file to the record with an id. The key is as for Create: the same attachment is sent as the
// same bytes. Not every platform makes a push operation of it: then PushOperationKey is "", and no webhook follows.
func (c *Client) UploadAttachment(ctx context.Context, t Target, id, key string, a Attachment) (PushOperation, error) {
	body, contentType, err := multipartBody(a)
	if !guid.MatchString(key) {
		err = errNotGUID
	}
	if err != nil {
		return PushOperation{}, &invalidError{"UploadAttachment", err}
	}
	last := "attachment"
	if t.DataType == codat.DataBills {
		last = "attachments" // of bills only
	}
	k := call{name: "UploadAttachment", method: http.MethodPost, path: []string{id, last}, key: key, body: body, contentType: contentType, mayBeEmpty: true}
	t.fill(&k)
	var raw optional[PushOperation]
	err = c.do(ctx, k, &raw)
	return raw.value, err
}

// multipartBody is a form with the file, the same for the same attachment.
func multipartBody(a Attachment) (body []byte, contentType string, err error) {
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	sum := sha256.Sum256(a.Content)
	if err := form.SetBoundary("headgate-" + hex.EncodeToString(sum[:16])); err != nil {
		return nil, "", fmt.Errorf("form: %w", err)
	}
	part, err := form.CreatePart(textproto.MIMEHeader{
		"Content-Disposition": {multipart.FileContentDisposition("file", a.Name)},
		"Content-Type":        {a.ContentType},
	})
	if err == nil {
		_, err = part.Write(a.Content)
	}
	if err := errors.Join(err, form.Close()); err != nil {
		return nil, "", fmt.Errorf("form: %w", err)
	}
	return b.Bytes(), form.FormDataContentType(), nil
}

// fill completes the call of a write.
func (t Target) fill(k *call) {
	k.company = t.Company
	k.path = append([]string{"companies", t.Company, "connections", t.Connection, "push", string(t.DataType)}, k.path...)
	if t.TimeoutMinutes > 0 {
		k.query = url.Values{"timeoutInMinutes": {strconv.Itoa(t.TimeoutMinutes)}}
	}
}

// push makes a call whose answer is a push operation with a key.
func (c *Client) push(ctx context.Context, t Target, k call) (PushOperation, error) {
	t.fill(&k)
	var op keyed
	err := c.do(ctx, k, &op)
	return op.PushOperation, err
}

// Push returns a push operation of a company by its key, also the reason of a failure, which no webhook has.
func (c *Client) Push(ctx context.Context, company, key string) (PushOperation, error) {
	var op keyed
	err := c.do(ctx, call{name: "Push", method: http.MethodGet, path: []string{"companies", company, "push", key}, company: company}, &op)
	return op.PushOperation, err
}

// Pushes returns the push operations of a company. Codat says nothing of their order: give OrderBy, such as -requestedOnUtc.
func (c *Client) Pushes(ctx context.Context, company string, p Page) (List[PushOperation], error) {
	var list List[PushOperation]
	err := c.do(ctx, call{name: "Pushes", method: http.MethodGet, path: []string{"companies", company, "push"}, query: p.values(), company: company}, &list)
	return list, err
}

// An Option describes what a write of a data type may contain: a value, and for Object and Array its properties by name.
type Option struct {
	Type        string            `json:"type"` // Array, Object, String, Number, Boolean, DateTime, File, MultiPart
	DisplayName string            `json:"displayName"`
	Description string            `json:"description"`
	Required    bool              `json:"required"`
	Properties  map[string]Option `json:"properties"`
	Options     []Choice          `json:"options"` // the values that are allowed, when there is a list
}

// A Choice is a value that an Option allows.
type Choice struct {
	Value       string `json:"value"`
	Type        string `json:"type"`
	DisplayName string `json:"displayName"`
	Description string `json:"description"`
	Required    bool   `json:"required"`
}

// Options returns what the platform behind a connection accepts for a data type. TimeoutMinutes is not used.
func (c *Client) Options(ctx context.Context, t Target) (Option, error) {
	var option Option
	path := []string{"companies", t.Company, "connections", t.Connection, "options", string(t.DataType)}
	err := c.do(ctx, call{name: "Options", method: http.MethodGet, path: path, company: t.Company}, &option)
	return option, err
}
