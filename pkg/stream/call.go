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
	callTimeout = 10 * time.Second // a server that moves a leader answers within five
	callWatch   = 50 * time.Millisecond
)

// call runs one request to JetStream with a deadline, and says in words why it was not answered. A server tells a
// client that it may not publish only beside the request, which then runs into its deadline: call watches for that, by
// the name of the object in the refused subject, and ends at once.
func call(ctx context.Context, js jetstream.JetStream, name string, request func(context.Context) error) error {
	nc := js.Conn()
	before := nc.LastError()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()

	done := make(chan error, 1)
	go func() { done <- request(ctx) }()
	tick := time.NewTicker(callWatch)
	defer tick.Stop()
	var denied error
	for {
		select {
		case err := <-done:
			switch {
			case err == nil:
				return nil
			case denied != nil:
				return fmt.Errorf("%w: the permissions of this user do not allow it", denied)
			}
			return inWords(err)
		case <-tick.C:
			if err := Denied(nc, name); denied == nil && err != nil && (err != before || isInbox(nc, err)) {
				denied = err
				cancel()
			}
		}
	}
}

// Denied is the last thing that the server said of a connection, when that is the refusal of a permission on a subject
// with name in it, or on the inbox to which all answers come; else nil. A server refuses beside what was asked, which then
// has no answer: where one does not come, this tells why. It names the subject, as nats.ErrPermissionViolation.
func Denied(nc *nats.Conn, name string) error {
	err := nc.LastError()
	if errors.Is(err, nats.ErrPermissionViolation) && (strings.Contains(err.Error(), name) || isInbox(nc, err)) {
		return err
	}
	return nil
}

// isInbox says whether an answer can come no more until the connection is a new one: nats.go subscribes to its inbox once.
func isInbox(nc *nats.Conn, err error) bool {
	return strings.Contains(err.Error(), `Subscription to "`+nc.Opts.InboxPrefix+".")
}

// inWords adds the cure to an error of a server.
func inWords(err error) error {
	var api *jetstream.APIError
	var cure string
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		cure = "the server did not answer: is it reachable, has the stream a leader, and may this user call JetStream?"
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		cure = "nobody answers for JetStream: enable it on the server and for this account, or wait until the cluster has a leader"
	case errors.As(err, &api):
		switch api.ErrorCode {
		case codeInsufficientResources, codeMemoryExceeded, codeStorageExceeded, codeAccountExceeded, codeStreamMaxBytesExceeded:
			cure = "max bytes of a stream are reserved: raise max_file_store on the server, or plan smaller limits"
		case codeNoPeers:
			cure = "fewer servers than the stream has replicas have joined the cluster: wait until they have, or plan fewer replicas"
		case codeReplicasNotSupported:
			cure = "more than one replica needs a cluster of servers"
		case codeSubjectOverlap:
			cure = "another stream takes these subjects already: nats stream ls --subjects shows which"
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
	codeDuplicateInProcess     jetstream.ErrorCode = 10158
)

func openStream(ctx context.Context, js jetstream.JetStream, name string) (st jetstream.Stream, err error) {
	err = call(ctx, js, name, func(ctx context.Context) error {
		st, err = js.Stream(ctx, name)
		return err
	})
	return st, err
}

func streamInfo(ctx context.Context, js jetstream.JetStream, name string) (*jetstream.StreamInfo, error) {
	st, err := openStream(ctx, js, name)
	if err != nil {
		return nil, err
	}
	return st.CachedInfo(), nil
}

// Bucket opens a KV bucket. One that is not there is ErrNotProvisioned.
func Bucket(ctx context.Context, js jetstream.JetStream, name string) (kv jetstream.KeyValue, err error) {
	err = call(ctx, js, bucketPrefix+name, func(ctx context.Context) error {
		kv, err = js.KeyValue(ctx, name)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrBucketNotFound):
		return nil, fmt.Errorf("bucket %s is %w: run headgate provision", name, ErrNotProvisioned)
	case err != nil:
		return nil, fmt.Errorf("bucket %s: %w", name, err)
	}
	return kv, nil
}

func pullConsumer(ctx context.Context, js jetstream.JetStream, stream, name string) (c jetstream.Consumer, err error) {
	err = call(ctx, js, stream+"."+name, func(ctx context.Context) error {
		c, err = js.Consumer(ctx, stream, name)
		return err
	})
	return c, err
}
