package check_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// An end of a connection: a pod by its labels and those of its namespace, or an address outside.
type end struct {
	name      string
	namespace map[string]string
	pod       map[string]string
	address   string
}

func (e end) String() string { return e.name }

// ours reports whether the policies are about it.
func (e end) ours() bool { return e.namespace["kubernetes.io/metadata.name"] == "headgate" }

// allows does what a network plugin does: traffic passes when the policies of both ends let it. A pod without a policy for a
// direction is open; policies only ever add.
func allows(t testing.TB, policies []networkingv1.NetworkPolicy, from, to end, port int, protocol corev1.Protocol) bool {
	t.Helper()
	out, in := !from.ours(), !to.ours()
	outClosed, inClosed := false, false
	for _, p := range policies {
		for _, direction := range p.Spec.PolicyTypes {
			switch {
			case direction == networkingv1.PolicyTypeEgress && from.ours() && selects(t, &p.Spec.PodSelector, from.pod):
				outClosed = true
				for _, rule := range p.Spec.Egress {
					out = out || peers(t, rule.To, to) && ports(rule.Ports, port, protocol)
				}
			case direction == networkingv1.PolicyTypeIngress && to.ours() && selects(t, &p.Spec.PodSelector, to.pod):
				inClosed = true
				for _, rule := range p.Spec.Ingress {
					in = in || peers(t, rule.From, from) && ports(rule.Ports, port, protocol)
				}
			}
		}
	}
	return (out || !outClosed) && (in || !inClosed)
}

func selects(t testing.TB, s *metav1.LabelSelector, of map[string]string) bool {
	t.Helper()
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return sel.Matches(labels.Set(of))
}

func peers(t testing.TB, all []networkingv1.NetworkPolicyPeer, e end) bool {
	t.Helper()
	if len(all) == 0 { // no peers are all peers
		return true
	}
	for _, p := range all {
		switch {
		case p.IPBlock != nil:
			if e.address != "" && within(t, p.IPBlock, e.address) {
				return true
			}
		case e.address != "":
		case p.NamespaceSelector == nil && !e.ours():
		case p.NamespaceSelector != nil && !selects(t, p.NamespaceSelector, e.namespace):
		case p.PodSelector == nil || selects(t, p.PodSelector, e.pod):
			return true
		}
	}
	return false
}

func within(t testing.TB, b *networkingv1.IPBlock, address string) bool {
	t.Helper()
	a := netip.MustParseAddr(address)
	contains := func(cidr string) bool {
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			t.Fatal(err)
		}
		return p.Contains(a)
	}
	if !contains(b.CIDR) {
		return false
	}
	for _, x := range b.Except {
		if contains(x) {
			return false
		}
	}
	return true
}

func ports(all []networkingv1.NetworkPolicyPort, port int, protocol corev1.Protocol) bool {
	if len(all) == 0 {
		return true
	}
	for _, p := range all {
		of := corev1.ProtocolTCP
		if p.Protocol != nil {
			of = *p.Protocol
		}
		if of == protocol && (p.Port == nil || p.Port.IntValue() == port) {
			return true
		}
	}
	return false
}

// Who reaches whom: the lines of this table, and nothing else.
func TestNetworkPolicies_AllowOnlyTheTable(t *testing.T) {
	t.Parallel()
	w := see(t, build(t, other))
	inside := map[string]string{"kubernetes.io/metadata.name": "headgate"}
	var all []end
	for _, l := range append(w.workloads(), see(t, build(t, dev)).workloads()...) {
		if l.kind == "StatefulSet" || l.name != "nats" {
			all = append(all, end{name: l.name, namespace: inside, pod: l.pod.Labels})
		}
	}
	caller := map[string]string{"headgate.dev/role": "worker", "headgate.dev/internet": "true"}
	writer := map[string]string{"headgate.dev/role": "worker", "headgate.dev/postgres": "true"}
	reader := map[string]string{"headgate.dev/reads-events": "true"}
	name := func(n string, more ...string) map[string]string {
		m := map[string]string{"kubernetes.io/metadata.name": n}
		for _, k := range more {
			m[k] = "true"
		}
		return m
	}
	all = append(
		all,
		end{name: "worker-that-calls", namespace: inside, pod: caller},
		end{name: "worker-with-postgres", namespace: inside, pod: writer},
		end{name: "postgres", namespace: name("databases"), pod: map[string]string{"app": "postgres"}},
		end{name: "debug", namespace: inside, pod: map[string]string{"run": "debug"}},
		end{name: "gateway", namespace: name("ingress-nginx", "headgate.dev/gateway"), pod: map[string]string{"app": "nginx"}},
		end{name: "console-proxy", namespace: name("sso", "headgate.dev/console"), pod: map[string]string{"app": "oauth2-proxy"}},
		end{name: "prometheus", namespace: name("monitoring"), pod: map[string]string{"app": "prometheus"}},
		end{name: "keda", namespace: name("keda"), pod: map[string]string{"app": "keda-operator"}},
		end{name: "dns", namespace: name("kube-system"), pod: map[string]string{"k8s-app": "kube-dns"}},
		end{name: "billing", namespace: name("billing", "headgate.dev/reads-events"), pod: reader},
		end{name: "beside-billing", namespace: name("billing", "headgate.dev/reads-events"), pod: map[string]string{"app": "else"}},
		end{name: "pretender", namespace: name("shop"), pod: map[string]string{"headgate.dev/role": "worker", "app.kubernetes.io/name": "nats", "headgate.dev/reads-events": "true"}},
		end{name: "internet", address: "203.0.113.9"},
		end{name: "internet-v6", address: "2001:db8::9"},
		end{name: "metadata-service", address: "169.254.169.254"},
		end{name: "private", address: "10.1.2.3"},
		end{name: "carrier", address: "100.64.1.1"},
		end{name: "private-v6", address: "fd00::1"},
	)
	want := map[string]bool{}
	allow := func(from, to string, ports ...int) {
		for _, p := range ports {
			want[fmt.Sprintf("%s -> %s:%d", from, to, p)] = true
		}
	}
	workers := []string{"worker-that-calls", "worker-with-postgres"}
	for _, d := range w.deployments {
		if strings.HasPrefix(d.Name, "worker-") {
			workers = append(workers, d.Name)
		}
	}
	allow("gateway", "ingress", 8080)
	allow("console-proxy", "console", 8070)
	for _, to := range append([]string{"ingress", "watch", "console"}, workers...) {
		allow("prometheus", to, 9090)
	}
	for _, from := range append([]string{"ingress", "watch", "provision", "scrub", "console", "billing"}, workers...) {
		allow(from, "nats", 4222)
	}
	allow("nats", "nats", 6222)
	allow("watch", "nats", 8222)
	allow("keda", "nats", 8222)
	for _, from := range append([]string{"ingress", "watch", "provision", "scrub", "console", "nats", "debug"}, workers...) {
		allow(from, "dns", 53)
	}
	allow("worker-that-calls", "internet", 443)
	for _, to := range all {
		if !to.ours() { // the component says nothing of addresses
			allow("worker-with-postgres", to.name, 5432)
		}
	}
	allow("worker-that-calls", "internet-v6", 443)

	seen := map[string]bool{}
	for _, from := range all {
		for _, to := range all {
			if !from.ours() && !to.ours() {
				continue
			}
			for _, port := range []int{22, 53, 80, 443, 4222, 5432, 6222, 6443, 7422, 8070, 8080, 8222, 9090} {
				flow := fmt.Sprintf("%s -> %s:%d", from, to, port)
				if seen[flow] {
					continue
				}
				seen[flow] = true
				got := allows(t, w.policies, from, to, port, corev1.ProtocolTCP)
				if got != want[flow] {
					t.Errorf("%s passes: %t; want %t", flow, got, want[flow])
				}
				if udp := allows(t, w.policies, from, to, port, corev1.ProtocolUDP); udp && port != 53 {
					t.Errorf("%s passes by UDP", flow)
				}
			}
		}
	}
	for flow := range want {
		if !seen[flow] {
			t.Errorf("%s was not tried", flow)
		}
	}
}

func TestOverlays_HaveThePoliciesOfTheBase(t *testing.T) {
	t.Parallel()
	if got := len(see(t, build(t, production)).policies); got != 7 || len(see(t, build(t, dev)).policies) != got {
		t.Errorf("production has %d network policies; want the 7 of the base in every overlay", got)
	}
}
