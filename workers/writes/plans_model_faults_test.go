//go:build faults

package writes

import "testing"

// TestPlans_CreateOnceInOrder with 500 plans.
func TestPlans_Faults_CreateOnceInOrder(t *testing.T) { checkPlans(t, 500) }
