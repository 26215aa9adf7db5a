//go:build faults

package writes

import "testing"

// TestPromise9_PlansCreateOnceInOrder with 500 plans.
func TestPromise9_Faults_PlansCreateOnceInOrder(t *testing.T) { checkPlans(t, 500) }
