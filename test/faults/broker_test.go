//go:build faults

package faults

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// nodes is how many servers a cluster has.
const nodes = 3

// A broker is one nats-server, or a cluster of them, that acknowledges what is on disk. What the nodes of a cluster say
// to each other passes links.
type broker struct {
	t       testing.TB
	url     string // of all nodes
	clients []string
	node    []*program
	links   []*link
	js      jetstream.JetStream
}

// newBroker starts n servers, with their data in folders of the test, and provisions the source.
func newBroker(t testing.TB, n int, plan stream.Layout) *broker {
	t.Helper()
	b := startServers(t, n)
	plan.Source, plan.Replicas = source, n
	// A cluster that has just begun answers requests to JetStream once it has a leader for them.
	var err error
	wait(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err = stream.Provision(ctx, b.js, plan, false)
		return err == nil
	}, func() string { return fmt.Sprintf("the source is provisioned: %v", err) })
	b.waitReady()
	return b
}

// startServers starts n servers without a stream.
func startServers(t testing.TB, n int) *broker {
	t.Helper()
	b := &broker{t: t, clients: make([]string, n)}
	routes, monitors := make([]string, n), make([]string, n)
	for i := range n {
		b.clients[i], routes[i], monitors[i] = address(t), address(t), address(t)
	}
	dir := t.TempDir()
	for i := range n {
		name, cluster := fmt.Sprintf("nats-%d", i), ""
		if n > 1 {
			// Nobody is told of an address that goes round the links.
			cluster = fmt.Sprintf("cluster {\n name: faults\n listen: %s\n no_advertise: true\n advertise: \"127.0.0.1:9\"\n routes: [%s]\n}\n",
				routes[i], strings.Join(b.routes(name, routes), ", "))
		}
		b.node = append(b.node, startServer(t, name, b.clients[i], monitors[i], filepath.Join(dir, name), cluster))
	}
	b.url = "nats://" + strings.Join(b.clients, ",nats://")
	b.waitReady()
	b.js = connect(t, b.url)
	return b
}

// startServer starts a server that acknowledges what is on disk, with its data in a folder. cluster is more of its
// configuration.
func startServer(t testing.TB, name, client, monitor, folder, cluster string) *program {
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, `server_name: %s
listen: %s
http: %s
max_payload: 2MB
write_deadline: "10s"
ping_interval: "20s"
jetstream {
 store_dir: %q
 sync_interval: always
 max_file_store: 16GB
}
%s`, name, client, monitor, folder, cluster), 0o600); err != nil {
		t.Fatal(err)
	}
	return launch(t, name, "nats-server", monitor, "-c", file)
}

// routes are where a node finds all nodes, of which it is one itself.
func (b *broker) routes(from string, addresses []string) []string {
	urls := make([]string, len(addresses))
	for i, a := range addresses {
		if to := fmt.Sprintf("nats-%d", i); to != from {
			a = b.link(from, to, "tcp", a)
		}
		urls[i] = "nats://" + a
	}
	return urls
}

// link lays a link, and returns its near end.
func (b *broker) link(from, to, network, address string) string {
	l := newLink(b.t, from, to, network, address)
	b.links = append(b.links, l)
	return l.address()
}

// through are the addresses of all nodes for a client that reaches each by a link of its own.
func (b *broker) through(client string) string {
	urls := make([]string, len(b.clients))
	for i, a := range b.clients {
		urls[i] = "nats://" + b.link(client, b.node[i].name, "tcp", a)
	}
	return strings.Join(urls, ",")
}

// cut cuts the links between one program and those of the others that are chosen.
func (b *broker) cut(one string, from func(other string) bool) (mend func()) {
	var down []*link
	for _, l := range b.links {
		if l.from == one && from(l.to) || l.to == one && from(l.from) {
			l.cut()
			down = append(down, l)
		}
	}
	return func() {
		for _, l := range down {
			l.mend()
		}
	}
}

// connected reports whether a client that goes through links is connected to a node.
func (b *broker) connected(client, node string) bool {
	for _, l := range b.links {
		if l.from == client && l.to == node {
			return l.used()
		}
	}
	return false
}

// connect makes a connection of the test's own, which comes back by itself.
func connect(t testing.TB, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, nats.Name("test"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(50*time.Millisecond), nats.PingInterval(time.Second), nats.MaxPingsOutstanding(3),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // or it prints what the test did
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// waitReady waits until every node that is not dead has all streams as their leaders have them.
func (b *broker) waitReady() {
	b.t.Helper()
	for _, n := range b.node {
		if n.cmd != nil {
			n.waitReady()
		}
	}
	if b.js != nil {
		wait(b.t, b.js.Conn().IsConnected, what("the test is connected"))
	}
}

// leader is the node that leads the events' stream.
func (b *broker) leader() *program {
	b.t.Helper()
	name := ""
	wait(b.t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		st, err := b.js.Stream(ctx, source.Stream())
		if err == nil && st.CachedInfo().Cluster != nil {
			name = st.CachedInfo().Cluster.Leader
		}
		return name != ""
	}, what("the stream has a leader"))
	return b.byName(name)
}

func (b *broker) byName(name string) *program {
	b.t.Helper()
	for _, n := range b.node {
		if n.name == name {
			return n
		}
	}
	b.t.Fatalf("no node %q", name)
	return nil
}

// serving is the node to which the client of that name is connected.
func (b *broker) serving(client string) *program {
	b.t.Helper()
	var found *program
	wait(b.t, func() bool {
		for _, n := range b.node {
			if _, says := n.probe("/connz"); strings.Contains(says, fmt.Sprintf(`"name": %q`, client)) {
				found = n
				return true
			}
		}
		return false
	}, what(client+" is connected"))
	return found
}

// but is a node that is neither of the others.
func (b *broker) but(others ...*program) *program {
	for _, n := range b.node {
		taken := false
		for _, other := range others {
			taken = taken || n == other
		}
		if !taken {
			return n
		}
	}
	return b.node[0]
}

// An ingress is a program with a public address.
type ingress struct {
	*program
	public string
}

// newIngress starts the ingress. It drains for no longer than it is told to.
func newIngress(t testing.TB, name, url, keyFile string, args ...string) *ingress {
	t.Helper()
	public, admin := address(t), address(t)
	args = append([]string{
		"--listen", public, "--admin-listen", admin, "--nats-url", url, "--secret-file", keyFile, "--log-level", "warn",
	}, args...)
	return &ingress{launch(t, name, "ingress", admin, args...), public}
}

func (i *ingress) host() string { return i.public }

// reachable waits until a server listens.
func (i *ingress) reachable() {
	i.t.Helper()
	wait(i.t, func() bool {
		conn, err := net.DialTimeout("tcp", i.public, time.Second)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, what(i.name+" listens"))
}
