//go:build mutants

package mutants

// plansMutants remove what lets a write plan make each record once, in order.
var plansMutants = []mutant{
	// 9. A write plan makes each record once, in order.
	{
		9, "taking the only push operation of Codat's history that can be the step's", "workers/writes plans.search",
		never("len(c) == 1"),
		"workers/writes TestPromise9_AStepIsMadeOnceAfter/a_5xx_of_a_push_that_was_made",
	},
	{
		9, "waiting for the steps before a step", "workers/writes ready",
		never("s != plan.Done"),
		"workers/writes TestPromise9_PlansPushEachStepWithWhatTheOnesBeforeItMade",
	},
}
