package process

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Known are the HEADGATE_ variables that some Headgate program reads. A program lets those of the others pass,
// because shells and compose files share an environment, and refuses any that is not here: it is misspelt.
// A test of the programs keeps the list true.
var Known = []string{
	"HEADGATE_ADMIN_LISTEN",
	"HEADGATE_ALLOW",
	"HEADGATE_ATTEMPTS",
	"HEADGATE_AUTHORIZATION",
	"HEADGATE_AUTHORIZATION_FILE",
	"HEADGATE_BACKOFF_MAX",
	"HEADGATE_BACKOFF_MIN",
	"HEADGATE_CLIENT_ID",
	"HEADGATE_CONCURRENCY",
	"HEADGATE_CONNECT_TIMEOUT",
	"HEADGATE_DATA",
	"HEADGATE_DRAIN_DELAY",
	"HEADGATE_GRACE",
	"HEADGATE_IDLE_TIMEOUT",
	"HEADGATE_INTERVAL",
	"HEADGATE_LISTEN",
	"HEADGATE_LOG_ACCEPTED",
	"HEADGATE_LOG_FORMAT",
	"HEADGATE_LOG_LEVEL",
	"HEADGATE_MAX_BODY",
	"HEADGATE_MAX_BYTES",
	"HEADGATE_MAX_CONNECTIONS",
	"HEADGATE_MAX_IN_FLIGHT",
	"HEADGATE_MONITOR_URL",
	"HEADGATE_NATS_LISTEN",
	"HEADGATE_PARK_AFTER",
	"HEADGATE_PATH",
	"HEADGATE_PROVISION",
	"HEADGATE_PUBLISH_TIMEOUT",
	"HEADGATE_READ_HEADER_TIMEOUT",
	"HEADGATE_READ_TIMEOUT",
	"HEADGATE_SECRET",
	"HEADGATE_SECRET_FILE",
	"HEADGATE_SOURCE",
	"HEADGATE_SOURCES",
	"HEADGATE_TIMEOUT",
	"HEADGATE_TLS_CERT",
	"HEADGATE_TLS_CLIENT_CA",
	"HEADGATE_TLS_KEY",
	"HEADGATE_TO",
	"HEADGATE_TOLERANCE",
	"HEADGATE_TRUSTED_PROXY",
	"HEADGATE_UNPROVEN_RATE",
}

// serviceLink matches what Kubernetes puts into the environment of a pod for a Service called headgate or
// headgate-something. HEADGATE_PORT is one only when its value is an address: else it is somebody's wrong guess.
var serviceLink = regexp.MustCompile(`^HEADGATE(_[A-Z0-9_]+)?_(` +
	`SERVICE_HOST=|SERVICE_PORT(_[A-Z0-9_]+)?=|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=|PORT=(tcp|udp|sctp)://)`)

// checkEnvironment reports the first HEADGATE_ variable of environ that neither own nor Known has.
func checkEnvironment(environ, own []string) error {
	environ = slices.Sorted(slices.Values(environ))
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "HEADGATE_") || serviceLink.MatchString(entry) ||
			slices.Contains(own, name) || slices.Contains(Known, name) {
			continue
		}
		return fmt.Errorf("%s is no setting of Headgate: did you mean %s? unset it if not",
			name, Nearest(name, slices.Concat(own, Known)))
	}
	return nil
}

// Nearest is the one of names that the fewest changed letters lead to, whatever their case; "" when there is none.
func Nearest(name string, names []string) string {
	least, found := 0, ""
	for _, candidate := range names {
		d := distance(strings.ToLower(name), strings.ToLower(candidate))
		if found == "" || d < least {
			least, found = d, candidate
		}
	}
	return found
}

// distance is the Levenshtein distance of a and b in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			changed := diagonal
			if a[i] != b[j] {
				changed++
			}
			diagonal = row[j+1]
			row[j+1] = min(changed, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
