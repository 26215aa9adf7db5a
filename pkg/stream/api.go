package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	requestTimeout = 10 * time.Second // a server answers within five while a leader moves
	permissionPoll = 50 * time.Millisecond
)

// request runs one request to JetStream with a deadline; its error names the cure. A server reports a missing permission
// on the connection and leaves the request unanswered: request watches for a refused subject with name in it, the name of
// the object, and then ends before the deadline.
func request(ctx context.Context, js jetstream.JetStream, name string, request func(context.Context) error) error {
	nc := js.Conn()
	before, began := nc.LastError(), time.Now()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()

	done := make(chan error, 1)
	go func() { done <- request(ctx) }()
	tick := time.NewTicker(permissionPoll)
	defer tick.Stop()
	var denied error
	for {
		select {
		case err := <-done:
			switch {
			case err == nil:
				if l := leaverOf(nc); l != nil {
					l.requests.answered()
				}
				return nil
			case denied != nil:
				return fmt.Errorf("%w: the permissions of this user do not allow it", denied)
			}
			if l := leaverOf(nc); l != nil && unanswered(err) {
				l.requests.failed(nc, began, err)
			}
			return explain(NotConnected(nc, err))
		case <-tick.C:
			if err := PermissionError(nc, name); denied == nil && err != nil && (err != before || isInbox(nc, err)) {
				denied = err
				cancel()
			}
		}
	}
}

// PermissionError returns the last error of a connection if it is a nats.ErrPermissionViolation of a subject with name in
// it, or of the inbox to which all replies go, and nil otherwise. It tells why a request has no reply: a server reports a
// missing permission on the connection and not to the request.
func PermissionError(nc *nats.Conn, name string) error {
	err := nc.LastError()
	if errors.Is(err, nats.ErrPermissionViolation) && (strings.Contains(err.Error(), name) || isInbox(nc, err)) {
		return err
	}
	return nil
}

// isInbox reports whether err says that the connection may not subscribe to its inbox. nats.go subscribes to it once, so
// replies come again only on a new connection.
func isInbox(nc *nats.Conn, err error) bool {
	return strings.Contains(err.Error(), `Subscription to "`+nc.Opts.InboxPrefix+".")
}

// explain adds the cure to an error of a server.
func explain(err error) error {
	var api *jetstream.APIError
	var cure string
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		cure = "the server did not answer: is it reachable, does the stream have a leader, and may this user call JetStream?"
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		cure = "JetStream does not answer: enable it on the server and for this account, or wait until the cluster has a leader"
	case errors.As(err, &api):
		switch api.ErrorCode {
		case codeInsufficientResources, codeMemoryExceeded, codeStorageExceeded, codeAccountExceeded, codeStreamMaxBytesExceeded:
			cure = "max bytes of a stream are reserved: raise max_file_store on the server, or choose smaller limits"
		case codeNoPeers:
			cure = "fewer servers than the stream has replicas have joined the cluster: wait until they have, or choose fewer replicas"
		case codeReplicasNotSupported:
			cure = "more than one replica needs a cluster of servers"
		case codeSubjectOverlap:
			cure = "another stream takes these subjects already: headgate streams --all shows which"
		case codeInvalidConfig:
			cure = "if it is the duplicate window, raise limits.duplicate_window on the server"
		}
	}
	if cure == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, cure)
}

// Error codes of the JetStream API that nats.go does not name.
const (
	codeAccountExceeded        jetstream.ErrorCode = 10002
	codeNoPeers                jetstream.ErrorCode = 10005
	codeInsufficientResources  jetstream.ErrorCode = 10023
	codeMemoryExceeded         jetstream.ErrorCode = 10028
	codeStorageExceeded        jetstream.ErrorCode = 10047
	codeInvalidConfig          jetstream.ErrorCode = 10052
	codeSubjectOverlap         jetstream.ErrorCode = 10065
	codeReplicasNotSupported   jetstream.ErrorCode = 10074
	codeStoreFailed            jetstream.ErrorCode = 10077
	codeHeaderTooLarge         jetstream.ErrorCode = 10097
	codeStreamMaxBytesExceeded jetstream.ErrorCode = 10122
	codeClusterNotAvailable    jetstream.ErrorCode = 10008
	codeDuplicateInProcess     jetstream.ErrorCode = 10158
)

func openStream(ctx context.Context, js jetstream.JetStream, name string) (st jetstream.Stream, err error) {
	err = request(ctx, js, name, func(ctx context.Context) error {
		st, err = js.Stream(ctx, name)
		return err
	})
	return st, err
}

func streamInfo(ctx context.Context, js jetstream.JetStream, name string) (*jetstream.StreamInfo, error) {
	began := time.Now()
	st, err := openStream(ctx, js, name)
	if err != nil {
		return nil, err
	}
	info := st.CachedInfo()
	if l := leaverOf(js.Conn()); l != nil {
		if err := leads(info.Cluster); err != nil {
			l.streams.failed(js.Conn(), began, err)
		} else {
			l.streams.answered()
		}
	}
	return info, nil
}

// Bucket opens a KV bucket. A missing bucket is ErrNotProvisioned.
func Bucket(ctx context.Context, js jetstream.JetStream, name string) (kv jetstream.KeyValue, err error) {
	err = request(ctx, js, bucketPrefix+name, func(ctx context.Context) error {
		kv, err = js.KeyValue(ctx, name)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrBucketNotFound):
		return nil, fmt.Errorf("bucket %s is %w: %s", name, ErrNotProvisioned, provisionWorker)
	case err != nil:
		return nil, fmt.Errorf("bucket %s: %w", name, err)
	}
	return kv, nil
}

func pullConsumer(ctx context.Context, js jetstream.JetStream, stream, name string) (c jetstream.Consumer, err error) {
	err = request(ctx, js, stream+"."+name, func(ctx context.Context) error {
		c, err = js.Consumer(ctx, stream, name)
		return err
	})
	return c, err
}
