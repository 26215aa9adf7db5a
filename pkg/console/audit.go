package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	// auditLimit bounds one audit.
	auditLimit = 15 * time.Minute
	// mostAudited is how many messages and claims an audit of the console reads at most: it keeps some 200 bytes of each.
	mostAudited = 500_000
	// mostExceptions is how many exceptions are kept and shown.
	mostExceptions = 500
)

// An audited is what an audit has read and found.
type audited struct {
	Report     audit.Report
	Exceptions int      // all; the report has the first
	LeftOut    []string // workers whose claims are not in a bucket
	Claims     uint64   // that there were
}

// An exceptionRow is an exception with what it leads to.
type exceptionRow struct {
	audit.Exception
	Event idLink
}

// An auditView is what the page of the audit shows.
type auditView struct {
	Task       taskView[*audited]
	Age        time.Duration
	Exceptions []exceptionRow
	Percent    uint64
	Most       int
}

// serveAudit shows the last audit, and how far one that runs has come.
func (c *Console) serveAudit(w http.ResponseWriter, r *http.Request) {
	v := auditView{Task: c.audit.view(), Most: mostAudited}
	if v.Task.Running {
		w.Header().Set("Refresh", jobRefresh)
		v.Percent = 100 * v.Task.Done / max(1, v.Task.Total)
	}
	if last := v.Task.Last; last.Value != nil {
		v.Age = max(0, c.Now().Sub(last.At).Round(time.Second))
		for _, e := range last.Value.Report.Exceptions {
			row := exceptionRow{e, idLink{ID: e.WebhookID}}
			if e.Sequence > 0 && (e.Stream == "" || e.Stream == c.Source.Stream()) {
				row.Event = idLink{fmt.Sprintf("#%d", e.Sequence), fmt.Sprintf("/events/%d", e.Sequence)}
			}
			v.Exceptions = append(v.Exceptions, row)
		}
	}
	c.render(w, r, "audit", v)
}

// runAudit begins an audit, unless one runs.
func (c *Console) runAudit(w http.ResponseWriter, r *http.Request) {
	c.audit.start(userOf(r).Name, auditLimit, c.stopped, c.auditOnce)
	http.Redirect(w, r, "/audit", http.StatusSeeOther)
}

// auditOnce audits the workers whose claims are in buckets. It returns an error for more than mostAudited messages and claims.
func (c *Console) auditOnce(ctx context.Context, show progress) (*audited, error) {
	found := &audited{}
	messages, _, err := c.messagesOf(ctx, c.Source.Stream())
	if err != nil {
		return nil, err
	}
	workers, err := stream.Workers(ctx, c.JS, c.Source)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, w := range workers {
		n, there, err := c.messagesOf(ctx, "KV_"+c.Source.ClaimsBucket(w.Name))
		if err != nil {
			return nil, err
		}
		if !there {
			found.LeftOut = append(found.LeftOut, w.Name)
			continue
		}
		names, found.Claims = append(names, w.Name), found.Claims+n
	}
	switch {
	case len(names) == 0:
		return nil, errors.New("no worker keeps its claims in a bucket: run headgate provision, or headgate audit --postgres")
	case messages+found.Claims > mostAudited:
		return nil, fmt.Errorf("there are %s messages and %s claims, and the console reads %s together: run headgate audit, which has a process and its memory for itself",
			count(messages), count(found.Claims), count(mostAudited))
	}
	found.Report, err = audit.Audit{JS: c.JS, Source: c.Source, Workers: names, Progress: show}.Run(ctx)
	if err != nil {
		return nil, err
	}
	found.Exceptions = len(found.Report.Exceptions)
	found.Report.Exceptions = found.Report.Exceptions[:min(found.Exceptions, mostExceptions)]
	for i := range found.Report.Workers {
		found.Report.Workers[i].Retries = nil // only numbers are shown
	}
	return found, nil
}

// messagesOf returns how many messages a stream has, and whether it is there.
func (c *Console) messagesOf(ctx context.Context, name string) (n uint64, there bool, err error) {
	st, err := c.JS.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("stream %s: %w", name, err)
	}
	return st.CachedInfo().State.Msgs, true, nil
}
