package streamtest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/embedded"
)

// Nodes is how many servers a cluster has.
const Nodes = 3

// Cluster is three NATS servers with JetStream that wait for the disk before they acknowledge, and with three copies
// of every stream. All connections to a node and between nodes can be cut.
type Cluster struct {
	URL string     // of all nodes
	NC  *nats.Conn // to any of the nodes; it moves by itself
	JS  jetstream.JetStream

	t     testing.TB
	nodes [Nodes]*node
}

type node struct {
	opts   *server.Options
	srv    *server.Server // nil while it is dead
	client *Proxy         // from clients to this node
	routes [Nodes]*Proxy  // from this node to each other
}

// NewCluster starts three servers and provisions the source codat with these workers and three replicas.
func NewCluster(t testing.TB, workers ...stream.WorkerSpec) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	for i := range c.nodes {
		n := &node{client: NewProxy(t, "")}
		for j := range c.nodes {
			if j != i {
				n.routes[j] = NewProxy(t, "")
			}
		}
		c.nodes[i] = n
	}
	var urls []string
	for i, n := range c.nodes {
		n.opts = c.options(i)
		urls = append(urls, n.client.URL())
		c.start(i)
	}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.Kill(i)
		}
	})
	c.URL = strings.Join(urls, ",")
	c.NC, c.JS = connect(t, c.URL)
	c.waitMeta()
	Provision(t, c.JS, stream.Layout{Source: Source, Replicas: Nodes, Workers: workers})
	c.WaitReady()
	return c
}

func (c *Cluster) options(i int) *server.Options {
	o := &server.Options{
		ServerName:             nodeName(i),
		Host:                   "127.0.0.1",
		Port:                   server.RANDOM_PORT,
		NoSigs:                 true,
		NoLog:                  true,
		MaxPayload:             embedded.MaxPayload,
		JetStream:              true,
		StoreDir:               c.t.TempDir(),
		JetStreamMaxMemory:     64 << 20,
		JetStreamMaxStore:      embedded.DefaultMaxStore,
		SyncAlways:             true,
		DisableJetStreamBanner: true,
		Cluster: server.ClusterOpts{
			Name:        "headgate",
			Host:        "127.0.0.1",
			Port:        server.RANDOM_PORT,
			NoAdvertise: true,
			// What the nodes tell each other about where they are leads nowhere, so that all routes go through
			// the proxies.
			Advertise: "127.0.0.1:1",
		},
	}
	for j, p := range c.nodes[i].routes {
		if j != i {
			o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: p.Addr()})
		}
	}
	return o
}

func nodeName(i int) string { return "node-" + strconv.Itoa(i) }

// start starts a node on new ports and leads the proxies there.
func (c *Cluster) start(i int) {
	c.t.Helper()
	n := c.nodes[i]
	srv, err := server.NewServer(n.opts.Clone())
	if err != nil {
		c.t.Fatalf("start node %d: %v", i, err)
	}
	n.srv = srv
	srv.Start()
	Wait(c.t, func() bool { return srv.Addr() != nil && srv.ClusterAddr() != nil }, fmt.Sprintf("node %d listens", i))
	n.client.Forward(srv.Addr().String())
	for j, m := range c.nodes {
		if j != i {
			m.routes[i].Forward(net.JoinHostPort("127.0.0.1", strconv.Itoa(srv.ClusterAddr().Port)))
		}
	}
	c.Join(i)
}

// Kill ends a node as hard as it can be done inside a process: first all of its connections break, so that it cannot
// hand anything over, step down or say good-bye; then it is stopped. What it has written stays; unlike a killed
// process, it may still write what it had in memory.
func (c *Cluster) Kill(i int) {
	c.t.Helper()
	n := c.nodes[i]
	if n.srv == nil {
		return
	}
	c.Isolate(i)
	n.srv.Shutdown()
	n.srv.WaitForShutdown()
	n.srv = nil
}

// Restart starts a node that was killed, with its data. WaitReady tells when it has caught up.
func (c *Cluster) Restart(i int) {
	c.t.Helper()
	if c.nodes[i].srv == nil {
		c.start(i)
	}
}

// Isolate cuts a node off from the others and from all clients, until Join. It runs on.
func (c *Cluster) Isolate(i int) {
	c.nodes[i].client.Cut()
	for j, n := range c.nodes {
		if j != i {
			n.routes[i].Cut()
			c.nodes[i].routes[j].Cut()
		}
	}
}

// LosePeers cuts a node off from the others and not from its clients, until Join.
func (c *Cluster) LosePeers(i int) {
	for j, n := range c.nodes {
		if j != i {
			n.routes[i].Cut()
			c.nodes[i].routes[j].Cut()
		}
	}
}

// NodeURL is the address of one node.
func (c *Cluster) NodeURL(i int) string { return c.nodes[i].client.URL() }

// MoveTo connects a connection that knows all nodes to one of them.
func (c *Cluster) MoveTo(nc *nats.Conn, i int) {
	c.t.Helper()
	at := func() bool { return nc.IsConnected() && nc.ConnectedUrl() == c.NodeURL(i) }
	Wait(c.t, func() bool {
		if nc.IsConnected() && !at() {
			before := nc.Stats().Reconnects
			_ = nc.ForceReconnect()
			holdsFor(patience/4, func() bool { return nc.Stats().Reconnects > before })
		}
		return at()
	}, fmt.Sprintf("a connection to node %d", i))
}

// Join ends Isolate and LosePeers. Connections to nodes that are isolated themselves stay cut.
func (c *Cluster) Join(i int) {
	c.nodes[i].client.Heal()
	for j, n := range c.nodes {
		if j != i && n.srv != nil && !n.client.isCut() {
			n.routes[i].Heal()
			c.nodes[i].routes[j].Heal()
		}
	}
}

// LeaderOf is the node that leads a stream, of those that are not cut off. It waits until there is one.
func (c *Cluster) LeaderOf(name string) int {
	c.t.Helper()
	leader := -1
	Wait(c.t, func() bool {
		for i, n := range c.nodes {
			if n.srv != nil && !n.client.isCut() && n.srv.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, name) {
				leader = i
				return true
			}
		}
		return false
	}, "stream "+name+" has a leader")
	return leader
}

// WaitReady waits until every node that is not dead is connected with the others and has all streams and consumers as
// their leaders have them, and until NC is connected.
func (c *Cluster) WaitReady() {
	c.t.Helper()
	alive := 0
	for _, n := range c.nodes {
		if n.srv != nil {
			alive++
		}
	}
	var why string
	ready := func() bool {
		for i, n := range c.nodes {
			if n.srv == nil {
				continue
			}
			if n.srv.NumRoutes() < alive-1 {
				why = fmt.Sprintf("node %d has %d routes", i, n.srv.NumRoutes())
				return false
			}
			if h := n.srv.Healthz(&server.HealthzOptions{}); h.StatusCode != 200 {
				why = fmt.Sprintf("node %d: %s", i, h.Error)
				return false
			}
		}
		why = "NC is not connected"
		return c.NC.IsConnected()
	}
	if !holdsFor(patience, ready) {
		c.t.Fatalf("the cluster is not ready: %s", why)
	}
}

// waitMeta waits until the cluster answers requests to JetStream.
func (c *Cluster) waitMeta() {
	c.t.Helper()
	var err error
	answers := func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = c.JS.AccountInfo(ctx)
		return err == nil
	}
	if !holdsFor(patience, answers) {
		c.t.Fatalf("the cluster does not answer: %v", err)
	}
}
