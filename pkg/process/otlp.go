package process

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// otlpTimeout is how long one try to send may take unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise.
const otlpTimeout = 10 * time.Second

// An otlp sends spans to a collector: OTLP over HTTP, in protobuf. OpenTelemetry's own client of this kind brings gRPC
// along, which would be a fifth of every program.
type otlp struct {
	url     string
	headers http.Header
	gzip    bool
	client  *http.Client
}

// newOTLP makes a client from OpenTelemetry's variables. Each has a form for traces alone, which wins.
func newOTLP() (*otlp, error) {
	o := &otlp{headers: http.Header{"Content-Type": {"application/x-protobuf"}}}
	endpoint, err := url.Parse(cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")))
	if err != nil || endpoint.Host == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https" {
		return nil, errors.New("OTEL_EXPORTER_OTLP_ENDPOINT: give an address as http://collector:4318")
	}
	if os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		endpoint = endpoint.JoinPath("v1/traces")
	}
	o.url = endpoint.String()
	if protocol := otlpVariable("PROTOCOL"); protocol != "" && protocol != "http/protobuf" {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL: %q is not spoken here: give http/protobuf, and the collector's port for it, 4318 by custom", protocol)
	}
	for pair := range strings.SplitSeq(otlpVariable("HEADERS"), ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil {
			return nil, errors.New("OTEL_EXPORTER_OTLP_HEADERS: give name=value, separated by commas, values percent-encoded")
		}
		o.headers.Set(strings.TrimSpace(name), value)
	}
	switch compression := otlpVariable("COMPRESSION"); compression {
	case "", "none":
	case "gzip":
		o.gzip = true
		o.headers.Set("Content-Encoding", "gzip")
	default:
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_COMPRESSION: %q: give gzip or none", compression)
	}
	timeout := otlpTimeout
	if text := otlpVariable("TIMEOUT"); text != "" {
		ms, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_TIMEOUT: %q: give milliseconds", text)
		}
		timeout = time.Duration(ms) * time.Millisecond
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if transport.TLSClientConfig, err = otlpTLS(); err != nil {
		return nil, err
	}
	o.client = &http.Client{Transport: transport, Timeout: timeout}
	return o, nil
}

func otlpVariable(name string) string {
	return cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_"+name), os.Getenv("OTEL_EXPORTER_OTLP_"+name))
}

func otlpTLS() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if name := otlpVariable("CERTIFICATE"); name != "" {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE: %s has no certificate in PEM", name)
		}
	}
	if name := otlpVariable("CLIENT_CERTIFICATE"); name != "" {
		own, err := tls.LoadX509KeyPair(name, otlpVariable("CLIENT_KEY"))
		if err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY: %w", err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config, nil
}

// Start has nothing to start.
func (o *otlp) Start(context.Context) error { return nil }

// Stop lets the connections go.
func (o *otlp) Stop(context.Context) error {
	o.client.CloseIdleConnections()
	return nil
}

// UploadTraces sends spans, and tries until ctx ends where OTLP says that trying again may help.
func (o *otlp) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// On the wire this is the request that a collector expects: both have the spans as their only field.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return err
	}
	if o.gzip {
		var small bytes.Buffer
		w := gzip.NewWriter(&small)
		_, _ = w.Write(body) // a buffer takes everything
		_ = w.Close()
		body = small.Bytes()
	}
	var last error
	_, err = backoff.Retry(ctx, func() (struct{}, error) {
		err := o.send(ctx, body)
		if ctx.Err() == nil {
			last = err
		}
		return struct{}{}, err
	}, backoff.WithBackOff(backoff.NewExponentialBackOff()), backoff.WithMaxElapsedTime(0))
	if err != nil && ctx.Err() != nil && last != nil {
		err = fmt.Errorf("%w: %w", err, last) // that time is up says nothing of why
	}
	return err
}

func (o *otlp) send(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
	}
	req.Header = o.headers.Clone()
	resp, err := o.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// Read to its end the connection can be used again. What it says is for people: the status decides.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16); err == nil {
			return backoff.RetryAfter(int(seconds))
		}
		return fmt.Errorf("the collector answered %s", resp.Status)
	}
	if resp.StatusCode/100 != 2 {
		return backoff.Permanent(fmt.Errorf("the collector answered %s", resp.Status))
	}
	return nil
}
