package ingress

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/time/rate"

	"github.com/headgate/headgate/pkg/signature"
)

// Diagnoses a second of each client class, and how many may follow at once. One costs a CPU some milliseconds at most, and the same
// mistake comes again with every event.
const diagnosisRate, diagnosisBurst = 1, 4

func newDiagnosisLimit() *rate.Limiter { return rate.NewLimiter(diagnosisRate, diagnosisBurst) }

// wrongSignature reports whether a request was refused for its signature.
func wrongSignature(err error) bool {
	for _, of := range []error{signature.ErrMissing, signature.ErrMalformed, signature.ErrNoMatch, signature.ErrTooOld, signature.ErrTooNew} {
		if errors.Is(err, of) {
			return true
		}
	}
	return false
}

// diagnose says what is wrong with the signature of a refused request, as headgate verify does, and writes its log line. A panic does
// not end the process, which can store events without it.
func (h *handler) diagnose(e ended) {
	d := new(signature.Diagnosis)
	defer func() {
		if v := recover(); v != nil {
			h.log.Error("diagnosing a request failed", zap.ByteString("stack", debug.Stack()))
		}
		h.logEnded(e, d)
	}()
	found := h.Keys.Diagnose(e.req.Header, e.unverified)
	if found.Code == "no_match" {
		h.ofAnotherSource(e.req, e.request, &found)
	}
	*d = found
}

// ofAnotherSource explains a request that came to the path of one source and is signed for another.
func (h *handler) ofAnotherSource(req *http.Request, r *request, d *signature.Diagnosis) {
	for _, other := range h.handlers {
		if other == h {
			continue
		}
		headers, err := other.Keys.Read(req.Header)
		if err != nil {
			continue
		}
		if v, err := other.Keys.Verify(headers, r.unverified); err == nil {
			d.Code, d.Key = "source", v.Key
			d.Text = fmt.Sprintf("the signature is right under key %s of source %s", v.Key, other.Source)
			d.Cure = fmt.Sprintf("compare the URL of the endpoint in Codat's Portal with the path of source %s, %s", other.Source, other.Path)
			return
		}
	}
}

// appendDiagnosis appends a diagnosis, in the words of headgate verify.
func appendDiagnosis(fields []zapcore.Field, d *signature.Diagnosis) []zapcore.Field {
	if d == nil {
		return fields
	}
	if d.Code != "" {
		fields = append(fields, zap.String("verdict", d.Code), zap.String("found", d.Text), zap.String("cure", d.Cure))
	}
	return append(fields, zap.Strings("evidence", d.Evidence))
}
