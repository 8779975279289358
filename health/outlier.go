package health

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// An Outcome is how a request to a target ended.
type Outcome uint8

// The outcomes of requests. A gateway failure counts as a server error, too.
const (
	Success        Outcome = iota
	ServerError            // an answer with a status of 500 to 599, or its like
	GatewayFailure         // 502, 503 or 504; no connection, a reset, no answer in time
)

// Outlier says which targets to eject, that is, to call not ready for a while,
// because requests to them fare worse than they should. The rules, names and
// defaults are those of Envoy's outlier detection; LatencyFactor is an addition.
// Targets are compared with those of their group. Requests to a target that is not
// ready do not count. A rule is switched off by a negative value of the field that
// says so; no other may be negative. Interval is at least 1 ms, LatencyFactor more
// than 1, and what is per cent at most 100.
type Outlier struct {
	// Consecutive5xx is how many requests in a row must end other than in
	// Success. Zero means 5; a negative value switches it off.
	Consecutive5xx int

	// ConsecutiveGatewayFailure is how many requests in a row must end in
	// GatewayFailure. Zero means off.
	ConsecutiveGatewayFailure int

	// Interval is how long requests are counted for the rules below. Zero
	// means 10 s.
	Interval time.Duration

	// An ejection takes BaseEjectionTime times the number of recent ejections,
	// at most MaxEjectionTime, which is at least BaseEjectionTime; each interval without one reduces that number.
	// It ends with the first check after it that passes. Zero means 30 s and
	// 300 s.
	BaseEjectionTime time.Duration
	MaxEjectionTime  time.Duration

	// MaxEjectionPercent is how much of a group may be ejected at once; one
	// target always may, as far as Options.MaxUnready allows. Zero means 10.
	MaxEjectionPercent int

	// A target is ejected whose success rate is SuccessRateStdevFactor/1000
	// standard deviations below the mean of its group, if at least
	// SuccessRateMinimumHosts of the group had SuccessRateRequestVolume
	// requests each in the interval; others do not count. Zero means 1900, 5
	// and 100; a negative SuccessRateStdevFactor switches it off.
	SuccessRateStdevFactor   int
	SuccessRateMinimumHosts  int
	SuccessRateRequestVolume int

	// A target is ejected of whose requests FailurePercentageThreshold per
	// cent or more failed; minimum and volume as above. Zero means off, 5 and
	// 50.
	FailurePercentageThreshold     int
	FailurePercentageMinimumHosts  int
	FailurePercentageRequestVolume int

	// A target is ejected whose mean latency is more than LatencyFactor times
	// the median of the means of its group; minimum and volume as of the
	// success rate. Zero means off; 3 is a value to begin with.
	LatencyFactor float64
}

func (o Outlier) withDefaults() (Outlier, error) {
	o.Consecutive5xx = cmp.Or(o.Consecutive5xx, 5)
	o.Interval = cmp.Or(o.Interval, 10*time.Second)
	o.BaseEjectionTime = cmp.Or(o.BaseEjectionTime, 30*time.Second)
	o.MaxEjectionTime = cmp.Or(o.MaxEjectionTime, 300*time.Second)
	o.MaxEjectionPercent = cmp.Or(o.MaxEjectionPercent, 10)
	o.SuccessRateStdevFactor = cmp.Or(o.SuccessRateStdevFactor, 1900)
	o.SuccessRateMinimumHosts = cmp.Or(o.SuccessRateMinimumHosts, 5)
	o.SuccessRateRequestVolume = cmp.Or(o.SuccessRateRequestVolume, 100)
	o.FailurePercentageMinimumHosts = cmp.Or(o.FailurePercentageMinimumHosts, 5)
	o.FailurePercentageRequestVolume = cmp.Or(o.FailurePercentageRequestVolume, 50)
	var errs []error
	for _, f := range []struct {
		name string
		bad  bool
		rule string
	}{
		{"Interval", o.Interval < time.Millisecond, "must be at least 1ms"},
		{"BaseEjectionTime", o.BaseEjectionTime < 0, "must not be negative"},
		{"MaxEjectionTime", o.MaxEjectionTime < 0, "must not be negative"},
		{"Interval", o.Interval > maxDuration, "must not be longer than 100 years"},
		{"BaseEjectionTime", o.BaseEjectionTime > maxDuration, "must not be longer than 100 years"},
		{"MaxEjectionTime", o.MaxEjectionTime > maxDuration, "must not be longer than 100 years"},
		{"MaxEjectionPercent", o.MaxEjectionPercent < 0 || o.MaxEjectionPercent > 100, "must be from 0 to 100"},
		{"SuccessRateMinimumHosts", o.SuccessRateMinimumHosts < 0, "must not be negative"},
		{"SuccessRateRequestVolume", o.SuccessRateRequestVolume < 0, "must not be negative"},
		{"ConsecutiveGatewayFailure", o.ConsecutiveGatewayFailure < 0, "must not be negative"},
		{"FailurePercentageThreshold", o.FailurePercentageThreshold < 0 || o.FailurePercentageThreshold > 100, "must be from 0 to 100"},
		{"FailurePercentageMinimumHosts", o.FailurePercentageMinimumHosts < 0, "must not be negative"},
		{"FailurePercentageRequestVolume", o.FailurePercentageRequestVolume < 0, "must not be negative"},
		{"LatencyFactor", o.LatencyFactor != 0 && !(o.LatencyFactor > 1), "must be more than 1"},
	} {
		if f.bad {
			errs = append(errs, fmt.Errorf("field Options.Outlier.%s %s", f.name, f.rule))
		}
	}
	o.MaxEjectionTime = max(o.MaxEjectionTime, o.BaseEjectionTime)
	return o, errors.Join(errs...)
}

// A traffic is what is known of the requests to one target.
type traffic struct {
	pos       int // in group.observed
	failures  int // in a row
	gateway   int // in a row
	ejections int // of late
	sample
}

// A sample is the requests of one interval.
type sample struct {
	requests  int
	successes int
	latency   time.Duration // the sum
}

func (s sample) rate() float64 { return float64(s.successes) / float64(s.requests) }

func (s sample) mean() float64 { return float64(s.latency) / float64(s.requests) }

// Observe tells how a request to a target ended, and how long it took. It
// reports whether there is such a target. It is meant to be called for each
// request.
func (p *Prober) Observe(id string, outcome Outcome, latency time.Duration) bool {
	p.mu.Lock()
	ok := p.core.observe(id, outcome, latency, p.now)
	p.unlock()
	return ok
}

// observe counts a request. It asks for the time only if it has to.
func (c *core) observe(id string, outcome Outcome, latency time.Duration, now func() instant) bool {
	t := c.targets[id]
	if t == nil {
		return false
	}
	if t.state != Ready {
		return true // requests under way when it was ejected count for nothing
	}
	if t.traffic == nil {
		t.traffic = &traffic{pos: len(t.group.observed)}
		t.group.observed = append(t.group.observed, t)
		if c.sweep == 0 {
			c.sweep = now() + c.opts.Outlier.Interval
		}
	}
	f := t.traffic
	f.requests++
	f.latency += latency
	if outcome == Success {
		f.successes++
		f.failures, f.gateway = 0, 0
		return true
	}
	f.failures++
	if outcome == GatewayFailure {
		f.gateway++
	} else {
		f.gateway = 0
	}
	o := &c.opts.Outlier
	if !c.ejectable(t) {
		return true
	}
	switch {
	case o.Consecutive5xx > 0 && f.failures >= o.Consecutive5xx:
		c.eject(t, now(), fmt.Sprintf("%d requests in a row failed", f.failures))
	case o.ConsecutiveGatewayFailure > 0 && f.gateway >= o.ConsecutiveGatewayFailure:
		c.eject(t, now(), fmt.Sprintf("%d requests in a row met a gateway failure", f.gateway))
	}
	return true
}

// ejectable tells whether a target may be ejected.
func (c *core) ejectable(t *target) bool {
	g := t.group
	return t.state == Ready && !c.inPanic && !full(g.out, g.size, c.opts.MaxUnready) &&
		!full(g.ejected, g.size, float64(c.opts.Outlier.MaxEjectionPercent)/100)
}

// eject takes a target out of routing for a while.
func (c *core) eject(t *target, now instant, reason string) {
	o, f := &c.opts.Outlier, t.traffic
	f.ejections++
	f.failures, f.gateway = 0, 0
	d := o.MaxEjectionTime
	if n := time.Duration(f.ejections); o.BaseEjectionTime <= d/n {
		d = o.BaseEjectionTime * n
	}
	c.apply(t, t.policy.Value(), observation{verdict: outlier, reason: fmt.Sprintf("for %v, since %s", d, reason), until: now + d}, now)
}

// sweepOutliers ends an interval.
func (c *core) sweepOutliers(now instant) {
	c.sweep = 0
	for _, g := range c.groups {
		if len(g.observed) == 0 {
			continue
		}
		c.sweep = now + c.opts.Outlier.Interval
		samples := make([]sample, len(g.observed))
		for i, t := range g.observed {
			samples[i] = t.traffic.sample
			t.traffic.sample = sample{}
			if t.traffic.ejections > 0 && !t.byTraffic {
				t.traffic.ejections--
			}
		}
		for i, reason := range c.opts.Outlier.find(samples) {
			if reason != "" && c.ejectable(g.observed[i]) {
				c.eject(g.observed[i], now, reason)
			}
		}
	}
}

// find returns for each target of a group why it is an outlier; empty if it is
// none. It depends on nothing but its arguments.
func (o *Outlier) find(group []sample) []string {
	reasons := make([]string, len(group))
	enough := func(volume, hosts int) []int {
		var with []int
		for i, s := range group {
			if s.requests >= max(1, volume) {
				with = append(with, i)
			}
		}
		if len(with) < hosts {
			return nil
		}
		return with
	}

	with := enough(o.SuccessRateRequestVolume, o.SuccessRateMinimumHosts)
	if len(with) > 0 && o.SuccessRateStdevFactor > 0 {
		var sum, squares float64
		for _, i := range with {
			sum += group[i].rate()
		}
		mean := sum / float64(len(with))
		for _, i := range with {
			squares += (group[i].rate() - mean) * (group[i].rate() - mean)
		}
		least := mean - float64(o.SuccessRateStdevFactor)/1000*math.Sqrt(squares/float64(len(with)))
		for _, i := range with {
			if rate := group[i].rate(); rate < least-1e-12 {
				reasons[i] = fmt.Sprintf("only %.1f %% of its requests succeeded, of %.1f %% in its group", 100*rate, 100*mean)
			}
		}
	}
	if len(with) > 0 && o.LatencyFactor > 0 {
		means := make([]float64, len(with))
		for n, i := range with {
			means[n] = group[i].mean()
		}
		slices.Sort(means)
		median := (means[(len(means)-1)/2] + means[len(means)/2]) / 2
		for _, i := range with {
			if mean := group[i].mean(); reasons[i] == "" && mean > o.LatencyFactor*median {
				reasons[i] = fmt.Sprintf("its requests take %v, of %v in its group",
					time.Duration(mean).Round(time.Microsecond), time.Duration(median).Round(time.Microsecond))
			}
		}
	}
	if o.FailurePercentageThreshold > 0 {
		for _, i := range enough(o.FailurePercentageRequestVolume, o.FailurePercentageMinimumHosts) {
			failures := group[i].requests - group[i].successes
			if reasons[i] == "" && 100*failures >= o.FailurePercentageThreshold*group[i].requests {
				reasons[i] = fmt.Sprintf("%d of %d requests failed", failures, group[i].requests)
			}
		}
	}
	return reasons
}

// forget takes a target out of those with traffic.
func (g *group) forget(t *target) {
	if t.traffic == nil {
		return
	}
	i, last := t.traffic.pos, len(g.observed)-1
	g.observed[i] = g.observed[last]
	g.observed[i].traffic.pos = i
	g.observed[last] = nil
	g.observed = g.observed[:last]
}
