// Package placement decides which components of a Service Weaver application
// live together, and how many replicas of each such group there are.
//
// A [Policy] looks at an [Input] (the components of a binary, who calls whom,
// what the configuration asks for) and returns a [Plan] of named groups. It is
// a pure function: it starts nothing, and the same input gives the same plan.
//
//	in := placement.Input{
//		Components: []string{placement.Main, "app/Cart", "app/Catalog"},
//		Edges: []placement.Edge{
//			{From: placement.Main, To: "app/Cart"},
//			{From: placement.Main, To: "app/Catalog"},
//		},
//	}
//	plan, err := placement.PerComponent(in)
//	fmt.Print(plan) // a table: group, replicas, components
//
// Four policies are provided: [PerComponent], [Colocated] (the configuration's
// colocate lists), [Together] (one group) and [ByCallGraph] (pairs that talk
// much share a group). A team's own policy is any function of the same type;
// [Plan.Validate] checks what it returns.
package placement
