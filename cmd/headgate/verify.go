package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
)

// maxCapture bounds the bytes of a captured request that are read.
const maxCapture = 64 << 20

// verifyCmd says whether a captured request is proven, or which known mistake explains its signature.
type verifyCmd struct {
	Request   string        `arg:"" optional:"" help:"File of the captured request: its headers, an empty line and its body, the text of curl -v, with --body; or a HAR file; - is standard input."`
	Headers   string        `name:"headers" env:"-" placeholder:"FILE" help:"File of the headers, one a line, when the body is in a file of its own."`
	Body      string        `name:"body" env:"-" placeholder:"FILE" help:"File of the body, byte for byte."`
	At        timeFlag      `name:"at" env:"-" placeholder:"TIME" help:"When the request arrived: a duration before now (90m, 3d), a date, or a date and time. Without it, only the signature is judged and not its age."`
	Tolerance time.Duration `name:"tolerance" env:"-" default:"5m" help:"Greatest difference between the signed time and the arrival, as the ingress accepts it."`

	outputFlags `embed:""`
	keyFlags    `embed:""`
}

// Validate returns an error for a command line that gives no request, or gives it twice.
func (c *verifyCmd) Validate() error {
	if c.Tolerance <= 0 {
		return fmt.Errorf("--tolerance must be greater than 0s (got %s)", c.Tolerance)
	}
	if (c.Request == "") == (c.Headers == "") {
		return errors.New("give the captured request as a file, or its --headers, and its --body in a file of its own")
	}
	if c.Headers != "" && c.Body == "" {
		return errors.New("--headers: give the --body too; an empty file is an empty body")
	}
	return nil
}

var errNotProven = errors.New("the request is not proven")

// Run prints the diagnosis of one request.
func (c *verifyCmd) Run(_ context.Context, t *terminal) error {
	keys, err := c.keys()
	if err != nil {
		return process.Misconfigured(err)
	}
	h, body, err := c.read(t.in)
	if err != nil {
		return process.Misconfigured(err)
	}
	now, tolerance := c.At.Time, c.Tolerance
	if now.IsZero() {
		now, tolerance = time.Now(), math.MaxInt64
	}
	d := signature.Diagnose(h, body, now, tolerance, keys...)
	err = c.printRecord(t, d, d.ID, func() error { return printDiagnosis(t.out, d) })
	if err == nil && d.Code != "ok" {
		err = errNotProven
	}
	return err
}

func printDiagnosis(w io.Writer, d signature.Diagnosis) error {
	rows := [][2]string{{"verdict", d.Code}, {"found", d.Text}}
	if d.Code == "ok" {
		rows = append(rows, [2]string{"webhook-id", d.ID}, [2]string{"signed", formatTime(d.At)})
	}
	if d.Cure != "" {
		rows = append(rows, [2]string{"cure", d.Cure})
	}
	for _, e := range d.Evidence {
		rows = append(rows, [2]string{"evidence", e})
	}
	return printRows(w, rows)
}

// read returns the headers and the body of the captured request.
func (c *verifyCmd) read(in io.Reader) (http.Header, []byte, error) {
	if c.Headers == "" {
		text, err := readCapture(c.Request, in)
		if err != nil {
			return nil, nil, err
		}
		if c.Body == "" {
			return parseCapture(text)
		}
		h := curlHeaders(string(text))
		if h == nil {
			if h, _, err = parseCapture(text); err != nil {
				return nil, nil, err
			}
		}
		body, err := readCapture(c.Body, in)
		return h, body, err
	}
	head, err := readCapture(c.Headers, in)
	if err != nil {
		return nil, nil, err
	}
	body, err := readCapture(c.Body, in)
	return parseHeaders(string(head)), body, err
}

func readCapture(name string, in io.Reader) ([]byte, error) {
	r := in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	text, err := io.ReadAll(io.LimitReader(r, maxCapture+1))
	if err == nil && len(text) > maxCapture {
		err = fmt.Errorf("%s: longer than %d bytes", name, maxCapture)
	}
	return text, err
}

// parseCapture reads a HAR file, or headers, an empty line and a body.
func parseCapture(text []byte) (http.Header, []byte, error) {
	if trimmed := bytes.TrimSpace(text); bytes.HasPrefix(trimmed, []byte("{")) {
		return parseHAR(trimmed)
	}
	if curlHeaders(string(text)) != nil {
		return nil, nil, errors.New("curl -v prints no body: give the file of the body by --body")
	}
	head, body, ok := bytes.Cut(text, []byte("\r\n\r\n"))
	if other, rest, lf := bytes.Cut(text, []byte("\n\n")); lf && (!ok || len(other) < len(head)) {
		head, body, ok = other, rest, true
	}
	if !ok {
		return nil, nil, errors.New("the captured request has no empty line between headers and body: give them by --headers and --body")
	}
	return parseHeaders(string(head)), body, nil
}

// parseHeaders reads lines "Name: value". It passes over others, as the request line.
func parseHeaders(text string) http.Header {
	h := http.Header{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok && !strings.ContainsAny(name, " \t") {
			h.Add(name, strings.TrimSpace(value))
		}
	}
	return h
}

// curlHeaders returns the headers of the request in a text of curl -v, and nil for another text.
func curlHeaders(text string) http.Header {
	if !strings.HasPrefix(text, "* ") && !strings.HasPrefix(text, "> ") {
		return nil
	}
	var sent strings.Builder
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "> "); ok {
			sent.WriteString(rest)
		}
	}
	if sent.Len() == 0 {
		return nil
	}
	return parseHeaders(sent.String())
}

// parseHAR returns the first request of a HAR file with signature headers, or the first with a body.
func parseHAR(text []byte) (http.Header, []byte, error) {
	var har struct {
		Log struct {
			Entries []struct {
				Request struct {
					Headers  []struct{ Name, Value string } `json:"headers"`
					PostData *struct {
						Text     string `json:"text"`
						Encoding string `json:"encoding"`
					} `json:"postData"`
				} `json:"request"`
			} `json:"entries"`
		} `json:"log"`
	}
	if err := json.Unmarshal(text, &har); err != nil {
		return nil, nil, fmt.Errorf("the captured request begins as JSON and is no HAR file: %w", err)
	}
	for _, e := range har.Log.Entries {
		h := http.Header{}
		for _, one := range e.Request.Headers {
			h.Add(one.Name, one.Value)
		}
		if h.Get("webhook-id") == "" && h.Get("svix-id") == "" || e.Request.PostData == nil {
			continue
		}
		body := []byte(e.Request.PostData.Text)
		if e.Request.PostData.Encoding == "base64" {
			decoded, err := base64.StdEncoding.DecodeString(e.Request.PostData.Text)
			if err != nil {
				return nil, nil, fmt.Errorf("the body in the HAR file: %w", err)
			}
			body = decoded
		}
		return h, body, nil
	}
	return nil, nil, errors.New("no request in the HAR file has a webhook-id and a body")
}
