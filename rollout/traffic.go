package rollout

// Traffic is what a version's traffic was, counted since the version began to
// get any. Counters only rise; the zero value is no traffic.
//
// The total of several replicas must only rise as well: keep what a replica that
// ended has counted, and add up what each counted [Traffic.Since] it was last
// asked. A total that falls when one of ten replicas restarts looks like ten
// that did.
type Traffic struct {
	// Requests is how many requests have ended, well or badly. Those in flight
	// are not in it.
	Requests uint64 `json:"requests"`

	// Failures is how many of them failed, by whatever the deployer calls a
	// failure. Requests that the client is to blame for are best left out.
	Failures uint64 `json:"failures,omitempty"`

	// Latency has how long they took, or those of them that were timed.
	Latency Histogram `json:"latency"`

	// Restarts is how often a process of this version had to be started again.
	Restarts uint64 `json:"restarts,omitempty"`
}

// Since returns what was counted after earlier was taken from the same source.
//
// Where a counter is lower than it was the source has begun anew, and what it
// shows has all been counted since. Requests, failures and latency have one
// source; restarts, which are counted by whoever restarts, have another.
func (t Traffic) Since(earlier Traffic) Traffic {
	since := Traffic{
		Requests: t.Requests - earlier.Requests,
		Failures: t.Failures - earlier.Failures,
		Restarts: t.Restarts - earlier.Restarts,
	}
	var ok bool
	since.Latency, ok = t.Latency.Since(earlier.Latency)
	if !ok || t.Requests < earlier.Requests || t.Failures < earlier.Failures {
		since.Requests, since.Failures, since.Latency = t.Requests, t.Failures, t.Latency.Clone()
	}
	if t.Restarts < earlier.Restarts {
		since.Restarts = t.Restarts
	}
	return since
}

// Add returns the traffic of both.
func (t Traffic) Add(other Traffic) Traffic {
	return Traffic{
		Requests: saturating(t.Requests, other.Requests),
		Failures: saturating(t.Failures, other.Failures),
		Latency:  t.Latency.Merge(other.Latency),
		Restarts: saturating(t.Restarts, other.Restarts),
	}
}

// SuccessRate returns the share of the requests that did not fail, 1 if there
// were none.
func (t Traffic) SuccessRate() float64 { return 1 - share(t.Failures, t.Requests) }

// share returns part/whole from 0 to 1, 0 of nothing.
func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return min(1, float64(part)/float64(whole))
}
