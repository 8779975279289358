package rollout

// A Counter is a number that only rises, for metrics. Those that begin with
// "rollout.runner" begin anew with each Runner; the others are stored.
type Counter struct {
	Name  string // as OpenTelemetry names metrics
	Call  string // the kind of call that it counts, an attribute; may be empty
	Value uint64
}

var actionKinds = [...]ActionKind{ActStart, ActReady, ActSetWeights, ActStop, ActStats, ActGate}

func kindIndex(k ActionKind) int {
	for i, kind := range actionKinds {
		if kind == k {
			return i
		}
	}
	return 0
}

// counts are those of this Runner.
type counts struct {
	calls, errors [len(actionKinds)]uint64

	hung, withheld      uint64
	writes, storeErrors uint64
	jumps               uint64
}

// Counters returns all counters, always the same ones in the same order, so that
// an observable counter can be made of each name.
func (r *Runner) Counters() []Counter {
	r.mu.Lock()
	s, n := r.state.Counters, r.count
	r.mu.Unlock()
	counters := []Counter{
		{"rollout.begun", "", s.Begun},
		{"rollout.succeeded", "", s.Succeeded},
		{"rollout.rolled_back", "", s.RolledBack},
		{"rollout.superseded", "", s.Superseded},
		{"rollout.retried", "", s.Retried},
		{"rollout.verdicts.failed", "", s.Failed},
		{"rollout.runner.hung", "", n.hung},                   // calls that ignored their context and were left behind
		{"rollout.runner.withheld", "", n.withheld},           // times that a call was not made since too many hang
		{"rollout.runner.store.writes", "", n.writes},         // tried
		{"rollout.runner.store.errors", "", n.storeErrors},    // of writes and reads
		{"rollout.runner.looks_without_time", "", n.jumps},    // the clock jumped, or nobody looked
		{"rollout.runner.events.missed", "", r.events.lost()}, // that were not kept long enough to be published
	}
	for i, kind := range actionKinds {
		counters = append(counters, Counter{"rollout.runner.calls", string(kind), n.calls[i]})
	}
	for i, kind := range actionKinds {
		counters = append(counters, Counter{"rollout.runner.call_errors", string(kind), n.errors[i]})
	}
	return counters
}
