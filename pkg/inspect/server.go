package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/stream"
)

// answerLimit bounds what is read of a server's answer: a stream takes about 500 bytes of it.
const answerLimit = 16 << 20

// server reads one server's monitoring address, which needs no user and belongs to no account.
func (c *Collector) server(ctx context.Context, now *collection, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return errors.New("a monitoring address is not a URL") // the error of url quotes it, with its password
	}
	var v varz
	asked := time.Now()
	_, err = c.monitoring(ctx, u.JoinPath("varz").String(), &v)
	s := Server{Monitor: u.Host, Answered: err == nil, Name: v.Name, Version: v.Version, Memory: v.Memory}
	if !v.Now.IsZero() {
		s.Clock = v.Now.Sub(asked.Add(time.Since(asked) / 2))
	}
	if cfg := v.JetStream.Config; cfg != nil {
		s.SyncAlways, s.MaxStorage = &cfg.SyncAlways, &cfg.MaxStore
	}
	if stats := v.JetStream.Stats; stats != nil {
		s.Storage = &stats.Store
	}
	if meta := v.JetStream.Meta; meta != nil {
		has := meta.Leader != ""
		s.HasMetaLeader = &has
	}
	if err == nil {
		err = errors.Join(c.health(ctx, u.JoinPath("healthz").String(), &s), c.copies(ctx, u.JoinPath("jsz"), &s))
	}
	now.update(func(snapshot *Snapshot) { snapshot.Servers = append(snapshot.Servers, s) })
	if err != nil {
		return fmt.Errorf("monitoring address %s: %w", u.Host, err)
	}
	return nil
}

// varz is the part of a server's /varz that is used.
type varz struct {
	Name      string    `json:"server_name"`
	Version   string    `json:"version"`
	Now       time.Time `json:"now"`
	Memory    int64     `json:"mem"`
	JetStream struct {
		Config *struct {
			SyncAlways bool  `json:"sync_always"`
			MaxStore   int64 `json:"max_storage"`
		} `json:"config"`
		Stats *struct {
			Store int64 `json:"storage"`
		} `json:"stats"`
		Meta *struct {
			Leader string `json:"leader"`
		} `json:"meta"`
	} `json:"jetstream"`
}

// health reads whether a server is healthy. A server whose disk was full has disabled its JetStream until it is restarted,
// and answers everything else as before.
func (c *Collector) health(ctx context.Context, address string, s *Server) error {
	var answer struct {
		Error string `json:"error"`
	}
	status, err := c.monitoring(ctx, address, &answer)
	if err != nil && status != http.StatusServiceUnavailable {
		return fmt.Errorf("healthz: %w", err)
	}
	healthy := status == http.StatusOK
	s.Healthy, s.Problem = &healthy, answer.Error
	return nil
}

// copies reads the state of the server's own copy of each of the source's streams. It leaves out a stream whose name two
// accounts use.
func (c *Collector) copies(ctx context.Context, address *url.URL, s *Server) error {
	address.RawQuery = "streams=true"
	var answer struct {
		Accounts []struct {
			Streams []struct {
				Name  string `json:"name"`
				State struct {
					Messages uint64 `json:"messages"`
					Bytes    uint64 `json:"bytes"`
					First    uint64 `json:"first_seq"`
					Last     uint64 `json:"last_seq"`
					Deleted  uint64 `json:"num_deleted"`
				} `json:"state"`
			} `json:"stream_detail"`
		} `json:"account_details"`
	}
	if _, err := c.monitoring(ctx, address.String(), &answer); err != nil {
		return fmt.Errorf("jsz: %w", err)
	}
	times := map[string]int{}
	for _, account := range answer.Accounts {
		for _, st := range account.Streams {
			if c.owns(st.Name) {
				times[st.Name]++
				s.Copies = append(s.Copies, Copy{
					Stream: st.Name, Messages: st.State.Messages, Bytes: st.State.Bytes,
					FirstSequence: st.State.First, LastSequence: st.State.Last, Deleted: st.State.Deleted,
				})
			}
		}
	}
	s.Copies = slices.DeleteFunc(s.Copies, func(c Copy) bool { return times[c.Stream] > 1 })
	return nil
}

// monitoring reads what a monitoring address answers, also with 503, and the status with which it does.
func (c *Collector) monitoring(ctx context.Context, address string, into any) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, errors.New("not a URL")
	}
	resp, err := c.http.Do(request)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) { // it quotes the address, which can hold a password
			err = failed.Err
		}
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
		return resp.StatusCode, fmt.Errorf("it answers %s", resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, answerLimit)).Decode(into); err != nil {
		return resp.StatusCode, err
	}
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, fmt.Errorf("it answers %s", resp.Status)
	}
	return resp.StatusCode, nil
}

// Servers reads the monitoring addresses of servers, such as http://nats-1:8222, with their copies of the streams of a source. It needs
// no connection to NATS. The error says what did not answer.
func Servers(ctx context.Context, s stream.Source, monitors ...string) ([]Server, error) {
	c := NewCollector(nil, s, monitors...)
	now := new(collection)
	var requests []func() error
	for _, address := range monitors {
		requests = append(requests, func() error { return c.server(ctx, now, address) })
	}
	now.all(requests...)
	slices.SortFunc(now.s.Servers, func(a, b Server) int { return strings.Compare(a.Monitor, b.Monitor) })
	return now.s.Servers, errors.Join(now.errs...)
}
