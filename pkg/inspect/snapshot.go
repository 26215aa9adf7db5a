package inspect

import (
	"time"

	"github.com/headgate/headgate/pkg/stream"
)

// A Snapshot is what a Collector saw of a source and its servers at one time. What did not answer is absent, or is
// marked so.
type Snapshot struct {
	Source stream.Source
	// Complete is false when something did not answer.
	Complete bool
	Took     time.Duration // how long it took to collect

	Streams   []Stream
	Consumers []Consumer
	// Created is when the stream of the events was made; zero when it does not answer.
	Created time.Time
	// LastEvent is when the newest event was stored; zero when none is stored. Quarantined messages and redrives are no
	// events.
	LastEvent time.Time
	// Quarantined is the number of messages in the quarantine, those that were released included; nil when unknown.
	Quarantined *uint64
	// DeadLetters counts the dead letters of each worker, also of those that have none; nil when unknown.
	DeadLetters map[string]uint64
	Workers     []Worker
	Servers     []Server
}

// A Stream is the state of a stream, or of the stream that holds a bucket.
type Stream struct {
	Name string
	// Answered is false when the stream does not answer. Then everything below is zero.
	Answered  bool
	HasLeader bool

	Messages     uint64
	Bytes        uint64
	MaxBytes     int64         // 0 or less without a bound
	MaxAge       time.Duration // 0 without a bound
	First        time.Time     // when the oldest message was stored; zero when the stream is empty
	LastSequence uint64
	Last         time.Time     // when the newest message was stored; zero when there was none
	Duplicates   time.Duration // the window in which an id is known
	Lost         uint64        // messages that the leader cannot read any more

	Replicas        int // copies that the stream is to have
	ReplicasCurrent int // copies that are online and up to date, the leader included
	ReplicaLag      map[string]uint64
}

// A Consumer is the state of a durable consumer: a worker's, or that of a team that reads the events itself.
type Consumer struct {
	Stream, Name string
	// Missing says that the consumer does not exist, although the worker has a bucket of claims.
	Missing bool
	// Answered is false when the consumer does not answer. Then everything below is zero.
	Answered  bool
	HasLeader bool

	Pending    uint64 // messages that were never delivered: the lag, on the stream of the events
	AckPending int    // messages that were delivered and are not settled
	// AckPendingLimit bounds AckPending: at the bound nothing new is delivered.
	AckPendingLimit int
	Waiting         int    // pull requests
	Delivered       uint64 // deliveries ever, repeated ones included
	// Pause is that of headgate pause.
	Pause stream.Pause
	// OldestUnsettled is the age of the oldest event that the consumer has not settled, and 0 when it has settled all. It
	// is nil when unknown, and for consumers of other streams than that of the events.
	OldestUnsettled *time.Duration
}

// A Worker is the sum of a worker's running processes.
type Worker struct {
	Name      string
	Instances int
	// CannotClaim is how many of the processes cannot read or take claims.
	CannotClaim int
	// PausedFor is how long the process that paused first has been paused; 0 when none is.
	PausedFor time.Duration
}

// A Server is what a NATS server reports at its monitoring address.
type Server struct {
	Monitor string // host and port of the address
	// Answered is false when the address does not answer. Then everything below is zero.
	Answered bool
	Name     string
	Version  string
	// Clock is by how much the server's clock is ahead of this machine's, or behind it when negative; the request's time makes it
	// uncertain.
	Clock  time.Duration
	Memory int64 // bytes that the process of the server uses
	// Healthy is what /healthz says of the server and of its copies of streams and consumers; nil when it does not answer.
	Healthy *bool
	// Problem is what /healthz names when the server is not healthy.
	Problem string
	// The rest is nil when the server does not report it, for example without JetStream.
	SyncAlways    *bool  // it writes to disk before it acknowledges
	HasMetaLeader *bool  // it knows a leader of the cluster's JetStream; a server without a cluster has none
	Storage       *int64 // of all streams on its disk
	MaxStorage    *int64 // bound of Storage
	// Copies are the server's copies of the source's streams.
	Copies []Copy
}

// A Copy is the state of one server's copy of a stream. The copies of a stream agree, but for what moves while they are
// read.
type Copy struct {
	Stream   string
	Messages uint64
	Bytes    uint64
	// FirstSequence and LastSequence are those of the oldest and of the newest message that the copy has had.
	FirstSequence, LastSequence uint64

	Deleted uint64 // sequences between the first and the last that the copy does not have
}
