//go:build faults

package relay_test

import "testing"

// A day of events waits for an endpoint that is down, and each is delivered once it is back.
func TestFaults_EndpointThatIsDownWithADayOfEvents(t *testing.T) {
	outage(t, 100_000, 64)
}
