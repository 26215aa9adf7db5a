package stream_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

func TestSource_Names(t *testing.T) {
	t.Parallel()
	const s stream.Source = "codat-eu"
	event, err := s.EventSubject("invoices.write.successful")
	if err != nil {
		t.Fatalf("EventSubject() = %v", err)
	}
	for _, tt := range []struct{ what, got, want string }{
		{"Stream", s.Stream(), "CODAT_EU"},
		{"DeadStream", s.DeadStream(), "CODAT_EU_DEAD"},
		{"ParkedStream", s.ParkedStream(), "CODAT_EU_PARKED"},
		{"OperatorStream", s.OperatorStream(), "CODAT_EU_OPERATOR"},
		{"WorkersBucket", s.WorkersBucket(), "CODAT_EU_workers"},
		{"ClaimsBucket", s.ClaimsBucket("relay-a"), "CODAT_EU_claims_relay-a"},
		{"StateBucket", s.StateBucket("connections"), "CODAT_EU_connections"},
		{"EventSubject", event, "codat-eu.events.invoices.write.successful"},
		{"QuarantineSubject", s.QuarantineSubject(), "codat-eu.quarantine"},
		{"OperatorSubject", s.OperatorSubject(), "codat-eu.operator"},
		{"PlansSubject", s.PlansSubject("submit"), "codat-eu.plans.submit"},
		{"RedriveSubject", s.RedriveSubject("w", "a.b"), "codat-eu.redrive.w.a.b"},
		{"ParkedSubject", s.ParkedSubject("w", "a.b"), "codat-eu.parked.w.a.b"},
		{"DeadSubject", s.DeadSubject("w", "a.b"), "codat-eu.dead.w.a.b"},
		{"EventFilter", s.EventFilter("*.write.successful"), "codat-eu.events.*.write.successful"},
		{"RedriveFilter", s.RedriveFilter("w"), "codat-eu.redrive.w.>"},
		{"ParkedFilter", s.ParkedFilter("w"), "codat-eu.parked.w.>"},
		{"DeadFilter", s.DeadFilter("w"), "codat-eu.dead.w.>"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s() = %q; want %q", tt.what, tt.got, tt.want)
		}
	}
}

func TestSource_TypeOfAndWorkerOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ subject, typ, worker string }{
		{"codat.events.company.created", "company.created", ""},
		{"codat.events.PushOperationStatusChanged", "PushOperationStatusChanged", ""},
		{"codat.redrive.connections.company.created", "company.created", "connections"},
		{"codat.parked.relay-a.read.completed.initial", "read.completed.initial", "relay-a"},
		{"codat.dead.w.x", "x", "w"},
		{"codat.quarantine", "", ""},
		{"codat.operator", "", ""},
		{"codat.dead.w", "", ""},
		{"codat.events", "", ""},
		{"codat-eu.events.x", "", ""},
		{"codatevents.x", "", ""},
		{"other.events.x", "", ""},
		{"", "", ""},
	} {
		if got := codatSource.TypeOf(tt.subject); got != tt.typ {
			t.Errorf("TypeOf(%q) = %q; want %q", tt.subject, got, tt.typ)
		}
		if got := codatSource.WorkerOf(tt.subject); got != tt.worker {
			t.Errorf("WorkerOf(%q) = %q; want %q", tt.subject, got, tt.worker)
		}
	}
}

func TestSource_EventSubjectRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, typ string }{
		{"nothing", ""},
		{"a blank", "company created"},
		{"a wildcard", "company.*"},
		{"a wildcard for all", ">"},
		{"an empty part", "company..created"},
		{"an empty part at the end", "company.created."},
		{"an empty part at the beginning", ".company"},
		{"a control character", "company\r\n"},
		{"a letter outside ASCII", "compañy.created"},
		{"a dollar, as of the server's own subjects", "$JS.API"},
		{"seventeen parts", strings.TrimSuffix(strings.Repeat("a.", 17), ".")},
		{"201 characters", strings.Repeat("a", 201)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := codatSource.EventSubject(tt.typ); !errors.Is(err, codat.ErrBadType) {
				t.Errorf("EventSubject(%q) = %q, %v; want ErrBadType", tt.typ, got, err)
			}
		})
	}
	for _, typ := range []string{strings.TrimSuffix(strings.Repeat("a.", 16), "."), strings.Repeat("a", 200), "a-b_C.9"} {
		if _, err := codatSource.EventSubject(typ); err != nil {
			t.Errorf("EventSubject(%q) = %v; want it to be allowed", typ, err)
		}
	}
}

func TestSource_EventSubjectOfCatalog(t *testing.T) {
	t.Parallel()
	for _, typ := range codat.Catalog() {
		name := strings.Replace(typ.Name, "*", "acme", 1)
		if subject, err := codatSource.EventSubject(name); err != nil || codatSource.TypeOf(subject) != name {
			t.Errorf("EventSubject(%q) = %q, %v", name, subject, err)
		}
	}
}

func FuzzEventSubject(f *testing.F) {
	for _, typ := range []string{"company.created", "*.write.successful", "", ".", "a..b", ">", "a b", "a\x00b", "é", strings.Repeat("a.", 20)} {
		f.Add(typ)
	}
	f.Fuzz(func(t *testing.T, typ string) {
		subject, err := codatSource.EventSubject(typ)
		if err != nil {
			if !errors.Is(err, codat.ErrBadType) || subject != "" {
				t.Fatalf("EventSubject(%q) = %q, %v; want ErrBadType and no subject", typ, subject, err)
			}
			return
		}
		if got := codatSource.TypeOf(subject); got != typ {
			t.Fatalf("TypeOf(EventSubject(%q)) = %q", typ, got)
		}
		if strings.ContainsAny(subject, "*> \t\r\n\x00") || strings.Contains(subject, "..") || strings.HasSuffix(subject, ".") {
			t.Fatalf("EventSubject(%q) = %q: not a subject to publish to", typ, subject)
		}
		if subject == codatSource.QuarantineSubject() || !strings.HasPrefix(subject, "codat.events.") {
			t.Fatalf("EventSubject(%q) = %q: outside the events", typ, subject)
		}
	})
}

func TestSource_Validate(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"codat", "c", "codat-eu-2", "a" + strings.Repeat("b", 30)} {
		if err := stream.Source(name).Validate(); err != nil {
			t.Errorf("Validate(%q) = %v", name, err)
		}
	}
	for _, tt := range []struct{ why, name string }{
		{"nothing", ""},
		{"a capital", "Codat"},
		{"a digit first", "2codat"},
		{"a dash first", "-codat"},
		{"an underscore", "codat_eu"},
		{"a dot", "codat.eu"},
		{"32 characters", "a" + strings.Repeat("b", 31)},
		{"the stream of dead letters of codat", "codat-dead"},
		{"the stream of parked events of codat", "codat-parked"},
		{"the stream of operators of codat", "codat-operator"},
		{"the buckets of claims of codat, where case does not count", "codat-claims"},
	} {
		if err := stream.Source(tt.name).Validate(); err == nil {
			t.Errorf("Validate(%q) = nil; want it refused: %s", tt.name, tt.why)
		}
	}
}

func TestValidateWorker_Names(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"connections", "relay-a", "tailor"} {
		if err := stream.ValidateWorker(name); err != nil {
			t.Errorf("ValidateWorker(%q) = %v", name, err)
		}
	}
	for _, name := range []string{"", "Relay", "a.b", "a b", "a>", "a-", "a" + strings.Repeat("b", 31)} {
		if err := stream.ValidateWorker(name); err == nil {
			t.Errorf("ValidateWorker(%q) = nil; want it refused", name)
		}
	}
}
