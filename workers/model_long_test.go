//go:build faults

package workers_test

import "testing"

// TestModelPostgreSQL_EveryEffectHappensExactlyOnce with all of rapid's checks.
func TestModel_Faults_PostgreSQL_EveryEffectHappensExactlyOnce(t *testing.T) { checkPostgreSQL(t, 1) }
