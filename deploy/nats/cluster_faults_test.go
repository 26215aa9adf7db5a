//go:build faults

package nats_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/stream"
)

func TestPrograms_Faults_CanDoTheirWorkWithThreeServers(t *testing.T) {
	t.Parallel()
	programsWork(t, 3)
}

func TestRoles_Faults_ReachNothingDangerousWithThreeServers(t *testing.T) {
	t.Parallel()
	rolesReachNothing(t, 3)
}

func TestSupport_Faults_ReadsHeadersAndNoBodyWithThreeServers(t *testing.T) {
	t.Parallel()
	readsAsSupport(t, 3)
}

func TestPlans_Faults_AreSubmittedAndActedOnWithThreeServers(t *testing.T) {
	t.Parallel()
	asksAboutPlans(t, 3)
}

func TestTeam_Faults_ReadsItsDurableAndTheStateWithThreeServers(t *testing.T) {
	t.Parallel()
	readsAsTeam(t, 3)
}

// auditEntry is part of what provision records in the operators' stream.
var auditEntry = []byte(`"command":"provision"`)

func TestCluster_Faults_StoresThreeCopies(t *testing.T) {
	t.Parallel()
	in, nodes, stores := cluster(t, "cluster.conf", nil)
	out := headgate(t, in.as(nodes[0], "provision"), "provision", "--replicas", "3")
	if !strings.Contains(out, "replicas: 3") {
		t.Errorf("provision prints\n%s\nwant 3 replicas", out)
	}
	for i, store := range stores {
		wait(t, func() bool { return holds(t, store, auditEntry) }, fmt.Sprintf("server %d has its copy", i+1))
	}
	store(t, in, nodes[0], "msg_1")
	audited := ""
	wait(t, func() bool { // a server answers for its copy some time after it has caught up
		audited, _ = tryHeadgate(t, in.as(nodes[1], "operator"), "audit")
		return strings.Contains(audited, "CODAT: 1 message read on nats-1, nats-2, nats-3, 0 deleted")
	}, "the operator's audit reads all copies")
	if !strings.Contains(audited, " 0 exceptions\n") {
		t.Errorf("headgate audit prints\n%s\nwant no exception", audited)
	}

	// A server that does not know the password is not a member.
	var args []string
	for _, n := range nodes {
		args = append(args, "--server", n.ClusterAddr().String())
	}
	outsider := install(t, args...).options(t, "cluster.conf", "nats-4")
	outsider.Cluster.Host, outsider.Cluster.Port = "127.0.0.1", server.RANDOM_PORT
	start(t, outsider)
	wait(t, func() bool {
		for _, n := range nodes {
			if len(n.said.about("authentication error")) > 0 {
				return true
			}
		}
		return false
	}, "a server without the password is refused")
	// The refused server counts another one until it is refused; the others count only members.
	for i, n := range nodes {
		if got, want := n.NumRemotes(), len(nodes)-1; got > want {
			t.Errorf("server %d has %d others in its cluster; want %d", i+1, got, want)
		}
	}
}

func TestSecureCluster_Faults_RequiresCertificatesAndEncrypts(t *testing.T) {
	t.Parallel()
	in, nodes, stores := cluster(t, "secure.conf", nil)

	bare := in.as(nodes[0], "provision")
	withCA := append(bare, "NATS_CA="+certs.ca)
	var refused sync.WaitGroup
	defer refused.Wait() // each waits for its timeout
	for _, tt := range []struct {
		client string
		env    []string
		says   string
	}{
		{"a client without the CA", bare, "certificate signed by unknown authority"},
		{"a client without a certificate", withCA, "certificate required"},
	} {
		refused.Go(func() {
			out, err := tryHeadgate(t, append(slices.Clone(tt.env), "HEADGATE_CONNECT_TIMEOUT=3s"), "provision")
			if err == nil || !strings.Contains(out, tt.says) {
				t.Errorf("%s: provision = %v, and prints\n%s\nwant an error that says %q", tt.client, err, out, tt.says)
			}
		})
	}
	headgate(t, append(withCA, "NATS_CERT="+certs.client, "NATS_KEY="+certs.clientKey), "provision", "--replicas", "3")
	nc, err := stream.Connect(t.Context(), stream.NATS{
		NATSURL: nodes[1].url(), NATSNKey: in.seed("ingress"), NATSCA: certs.ca, NATSCert: certs.client, NATSKey: certs.clientKey,
	}, "ingress", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := stream.Connected(within(t), nc); err != nil {
		t.Fatal(err)
	}
	publisher, err := stream.NewPublisher(nc, stream.PublisherOptions{Window: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer publisher.Close()
	body := []byte(`{"marker":"in clear text"}`)
	if _, err := publisher.Publish(within(t), &nats.Msg{Subject: "codat.quarantine", Data: body}); err != nil {
		t.Fatal(err)
	}
	for i, store := range stores {
		for _, text := range [][]byte{auditEntry, body} {
			if holds(t, store, text) {
				t.Errorf("server %d stores %s in clear text", i+1, text)
			}
		}
	}
}

// holds reports whether a file under a folder has this text.
func holds(t *testing.T, folder string, text []byte) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // servers rename and remove files while they run
		}
		content, err := os.ReadFile(path)
		found = found || err == nil && bytes.Contains(content, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestFind_Faults_AnswersOperatorAndSupportWithThreeServers(t *testing.T) {
	t.Parallel()
	findsThroughIndex(t, 3)
}
