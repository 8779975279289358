package rollout_test

import (
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/weaverkit/weaverkit/rollout"
)

var figureRuns = flag.Int("figures", 0, "how many rollouts to simulate for each figure of VERDICTS.md; "+
	"0 is a few, at one rate of requests")

// The simulated rollout: the new version gets these shares, for at least bake
// each, and then everything, until the hour is over.
var ladder = []float64{0.10, 0.25, 0.50, 0.75}

const (
	bake    = 5 * time.Minute
	tick    = 10 * time.Second
	horizon = time.Hour
)

// scene is what traffic there is in one simulation.
type scene struct {
	perSecond int
	old, new  func(at time.Duration) float64 // failure rates
	turns     time.Duration                  // when the new version turns bad
	burst     uint64                         // so many requests in a row fail or succeed together
}

func constant(rate float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return rate }
}

func during(start, end time.Duration, inside, outside float64) func(time.Duration) float64 {
	return func(at time.Duration) float64 {
		if at >= start && at < end {
			return inside
		}
		return outside
	}
}

// sample is the traffic of one tick.
type sample struct{ oldAll, oldBad, newAll, newBad uint64 }

func (s *sample) add(t sample) {
	s.oldAll += t.oldAll
	s.oldBad += t.oldBad
	s.newAll += t.newAll
	s.newBad += t.newBad
}

func (s sample) window() rollout.Window {
	return rollout.Window{
		Old: rollout.Traffic{Requests: s.oldAll, Failures: s.oldBad},
		New: rollout.Traffic{Requests: s.newAll, Failures: s.newBad},
	}
}

// controller decides about one rollout. See is told the traffic of one tick and
// at which step it was, and for how long that step has lasted; it answers whether
// to go back, and whether to go on with the next step.
type controller interface {
	see(s sample, onStep time.Duration) (back, on bool)
}

// ours is Judge, every tick, with all defaults; a window ends when the weights
// change and every five minutes.
type ours struct {
	analysis rollout.Analysis
	earlier  []rollout.Window
	now      sample
	since    time.Duration // where on the step the window began
}

func (c *ours) see(s sample, onStep time.Duration) (back, on bool) {
	c.now.add(s)
	w := c.now.window()
	verdict := c.analysis.Judge(w.Old, w.New, c.earlier...).Verdict
	on = verdict == rollout.Pass && onStep >= bake
	if on || onStep-c.since >= bake {
		c.earlier = append(c.earlier, w)
		c.now, c.since = sample{}, onStep
	}
	if on {
		c.since = 0
	}
	return verdict == rollout.Fail, on
}

// threshold is the rule of the known controllers: every minute the success rate
// of the new version in that minute must be at least so much.
type threshold struct {
	least    float64
	failures int  // so many checks below fail the rollout
	hold     bool // a check below does not count for the bake (as in Flagger)

	minute sample
	below  int
	good   int // checks on this step that count for the bake
}

func (c *threshold) see(s sample, onStep time.Duration) (back, on bool) {
	c.minute.add(s)
	if onStep%time.Minute != 0 {
		return false, false
	}
	bad := c.minute.newAll > 0 && 1-float64(c.minute.newBad)/float64(c.minute.newAll) < c.least
	c.minute = sample{}
	if bad {
		c.below++
	}
	if !bad || !c.hold {
		c.good++
	}
	on = c.good >= int(bake/time.Minute)
	if on {
		c.good = 0
	}
	return c.below >= c.failures, on
}

type entry struct {
	name string
	make func() controller
}

var here = entry{"here", func() controller { return &ours{} }}

// with is Judge with another analysis.
func with(name string, a rollout.Analysis) entry {
	return entry{name, func() controller { return &ours{analysis: a} }}
}

var controllers = []entry{
	here,
	// The metrics example of Flagger's documentation, and the threshold of its
	// tutorials: request-success-rate, interval 1m, min 99; threshold 5.
	{"99 %, 5 times", func() controller { return &threshold{least: 0.99, failures: 5, hold: true} }},
	// An example of Argo Rollouts' documentation: interval 60s, count 5,
	// successCondition >= 0.95, and the default failureLimit, 0.
	{"95 %, once", func() controller { return &threshold{least: 0.95, failures: 1} }},
	// The strictest of both.
	{"99 %, once", func() controller { return &threshold{least: 0.99, failures: 1} }},
}

// withStrict is for versions that are bad: others a small Tolerance seldom passes
// within the hour.
var withStrict = slices.Insert(slices.Clone(controllers), 1, with("here, Tolerance: 0.001", rollout.Analysis{Tolerance: 0.001}))

// outcome is how one simulated rollout ended.
type outcome struct {
	stopped bool
	at      time.Duration // when it was stopped
	through time.Duration // when the new version had all traffic; 0 if never
	harmed  float64       // share of the hour's requests that the new version failed
}

func simulate(s scene, c controller, seed uint64) outcome {
	rng := rand.New(rand.NewPCG(seed, 1))
	var out outcome
	step, onStep := 0, time.Duration(0)
	var all, harmed uint64
	for at := time.Duration(0); at < horizon; at += tick {
		portion := 1.0
		if out.stopped {
			portion = 0
		} else if step < len(ladder) {
			portion = ladder[step]
		}
		// The same seed gives the same traffic as long as shares are the same.
		t := sample{}
		n := uint64(s.perSecond) * uint64(tick/time.Second)
		t.newAll = binomial(rng, n, portion)
		t.oldAll = n - t.newAll
		burst := max(s.burst, 1)
		t.oldBad = burst * binomial(rng, t.oldAll/burst, s.old(at))
		t.newBad = burst * binomial(rng, t.newAll/burst, s.new(at))
		all += n
		harmed += t.newBad
		if out.stopped || step == len(ladder) {
			continue
		}
		onStep += tick
		back, on := c.see(t, onStep)
		if back {
			out.stopped, out.at = true, at+tick
		} else if on {
			step, onStep = step+1, 0
			if step == len(ladder) {
				out.through = at + tick
			}
		}
	}
	out.harmed = float64(harmed) / float64(all)
	return out
}

// binomial draws how many of n succeed with chance p: by the gaps between them, or,
// where there would be hundreds, from the normal distribution that is then as good.
func binomial(rng *rand.Rand, n uint64, p float64) uint64 {
	switch {
	case p <= 0:
		return 0
	case p >= 1:
		return n
	case p > 0.5:
		return n - binomial(rng, n, 1-p)
	}
	mean := float64(n) * p
	if mean > 300 {
		k := math.Round(mean + math.Sqrt(mean*(1-p))*rng.NormFloat64())
		return uint64(min(max(k, 0), float64(n)))
	}
	log := math.Log1p(-p)
	var k uint64
	for at := 0.; ; k++ {
		at += math.Floor(math.Log(1-rng.Float64())/log) + 1
		if at > float64(n) {
			return k
		}
	}
}

// summary is many outcomes of one controller.
type summary struct {
	stopped, early float64 // shares: of all, and before the version was bad
	median, p95    time.Duration
	through        time.Duration // median
	passed         float64       // share that had all traffic in the end
	harmed         float64       // mean
}

const never = math.MaxInt64

func run(s scene, c entry, runs int) summary {
	var sum summary
	var times, through []time.Duration
	outcomes := make([]outcome, runs)
	var seeds atomic.Int64
	var done sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		done.Go(func() {
			for seed := seeds.Add(1) - 1; seed < int64(runs); seed = seeds.Add(1) - 1 {
				outcomes[seed] = simulate(s, c.make(), uint64(seed))
			}
		})
	}
	done.Wait()
	for _, o := range outcomes {
		stopped, end := time.Duration(never), time.Duration(never)
		if o.stopped {
			sum.stopped += 1 / float64(runs)
			stopped = o.at - s.turns
		}
		if stopped <= 0 {
			sum.early += 1 / float64(runs)
		}
		if o.through > 0 {
			end = o.through
			sum.passed += 1 / float64(runs)
		}
		times, through = append(times, stopped), append(through, end)
		sum.harmed += o.harmed / float64(runs)
	}
	slices.Sort(times)
	slices.Sort(through)
	sum.median, sum.p95, sum.through = times[(runs-1)/2], times[(runs-1)*95/100], through[(runs-1)/2]
	return sum
}

// bad says of a version that must be stopped how that went.
func (s summary) bad() string {
	cell := fmt.Sprintf("%s, %s; %s", short(s.median), short(s.p95), share(s.harmed))
	if s.early > 0 {
		cell += fmt.Sprintf("; %s before it was bad", share(s.early))
	}
	if s.stopped < 0.9995 {
		cell += fmt.Sprintf("; %s stopped", share(s.stopped))
	}
	return cell
}

// good says of a version that must not be stopped how that went.
func (s summary) good() string {
	return fmt.Sprintf("%s; %s", share(s.stopped), short(s.through))
}

func short(d time.Duration) string {
	switch {
	case d == never:
		return "not"
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	default:
		return fmt.Sprintf("%.1f min", d.Minutes())
	}
}

func share(x float64) string {
	if x > 0.0995 {
		return fmt.Sprintf("%.3g %%", 100*x)
	}
	return fmt.Sprintf("%.2g %%", 100*x)
}

// TestFigures makes the tables of VERDICTS.md, if it is run as it says there,
// and else smaller ones, to see that what is said there is so.
func TestFigures(t *testing.T) {
	rates, runs, goodRuns := []int{10, 100, 1000}, *figureRuns, 2**figureRuns
	if runs == 0 {
		rates, runs, goodRuns = []int{100}, 5, 5
	}
	out := t.Output()

	header(out, "failing", withStrict)
	for _, perSecond := range rates {
		for _, rate := range []float64{0.01, 0.02, 0.05, 0.20} {
			s := scene{perSecond: perSecond, old: constant(0.001), new: constant(rate)}
			sums := row(out, share(rate), s, withStrict, runs, summary.bad)
			assert.InDelta(t, 1, sums[1].stopped, 1e-9, "every bad version is stopped")
			assert.Less(t, sums[1].harmed, sums[2].harmed)
			assert.Less(t, sums[1].harmed, sums[3].harmed)
			if perSecond >= 100 {
				assert.Less(t, sums[1].harmed, sums[4].harmed)
				assert.Less(t, sums[1].median, 2*time.Minute)
			}
			// What is near to the tolerance takes long; it does not pass.
			assert.Zero(t, sums[0].passed)
			assert.Less(t, sums[0].harmed, sums[3].harmed)
			if rate >= 0.05 || perSecond >= 100 {
				assert.InDelta(t, 1, sums[0].stopped, 1e-9)
				assert.Less(t, sums[0].harmed, sums[2].harmed)
			}
			if rate >= 0.05 && perSecond >= 100 {
				assert.Less(t, sums[0].harmed, sums[4].harmed)
				assert.LessOrEqual(t, sums[0].median, 20*time.Second)
			}
		}
	}

	header(out, "both failing", controllers)
	for _, perSecond := range rates {
		for _, rate := range []float64{0.001, 0.01, 0.05} {
			s := scene{perSecond: perSecond, old: constant(rate), new: constant(rate)}
			sums := row(out, share(rate), s, controllers, goodRuns, summary.good)
			assert.LessOrEqual(t, sums[0].stopped, 0.01)
		}
	}

	columns := slices.Clone(controllers)
	header(out, "worse, but within Tolerance", columns)
	for _, perSecond := range rates {
		for _, c := range []struct{ old, new, tolerance float64 }{
			{0.001, 0.003, 0.005},
			{0.001, 0.004, 0.005},
			{0.001, 0.006, 0.005},
			{0.01, 0.013, 0.005},
			{0.01, 0.015, 0.005},
			{0.001, 0.011, 0.02},
		} {
			columns[0] = with("here", rollout.Analysis{Tolerance: c.tolerance})
			name := fmt.Sprintf("%s, old %s; Tolerance: %v", share(c.new), share(c.old), c.tolerance)
			s := scene{perSecond: perSecond, old: constant(c.old), new: constant(c.new)}
			sums := row(out, name, s, columns, runs, summary.good)
			assert.LessOrEqual(t, sums[0].stopped, 0.01)
		}
	}

	header(out, "what happens", controllers)
	for _, perSecond := range rates {
		outage := during(4*time.Minute, 6*time.Minute, 0.3, 0.001)
		for _, c := range []struct {
			name     string
			old, new func(time.Duration) float64
		}{
			{"30 % of both fail from minute 4 to 6", outage, outage},
			{"the old one 5 %, the new one 0.1 %", constant(0.05), constant(0.001)},
		} {
			s := scene{perSecond: perSecond, old: c.old, new: c.new}
			sums := row(out, c.name, s, controllers, runs, summary.good)
			assert.LessOrEqual(t, sums[0].stopped, 0.01)
			if perSecond >= 100 {
				assert.Less(t, sums[0].through, horizon)
			}
		}
	}

	header(out, "turning bad in minute 12", withStrict)
	for _, perSecond := range rates {
		for _, rate := range []float64{0.01, 0.05} {
			turns := 12 * time.Minute
			s := scene{perSecond: perSecond, turns: turns, old: constant(0.001), new: during(turns, horizon, rate, 0.001)}
			sums := row(out, share(rate), s, withStrict, runs, summary.bad)
			assert.LessOrEqual(t, sums[0].early, 0.01)
			if rate >= 0.05 || perSecond >= 100 {
				assert.InDelta(t, 1, sums[0].stopped, 0.01)
			}
			assert.InDelta(t, 1, sums[1].stopped, 0.02)
		}
	}

	burst := with("here, Burst: 5", rollout.Analysis{Burst: 5})
	header(out, "failures by fives", []entry{here, burst})
	for _, perSecond := range rates {
		s := scene{perSecond: perSecond, burst: 5, old: constant(0.001), new: constant(0.001)}
		sums := row(out, "0.1 % of both", s, []entry{here, burst}, goodRuns, summary.good)
		assert.LessOrEqual(t, sums[1].stopped, 0.01)
		s.new = constant(0.05)
		sums = row(out, "5 % of the new one's", s, []entry{here, burst}, runs, summary.bad)
		assert.InDelta(t, 1, sums[1].stopped, 0.01)
		if perSecond >= 100 {
			assert.InDelta(t, 1, sums[1].stopped, 1e-9)
		}
	}
}

func header(out io.Writer, first string, columns []entry) {
	fmt.Fprintf(out, "\n| %s | requests/s |", first)
	for _, c := range columns {
		fmt.Fprintf(out, " %s |", c.name)
	}
	fmt.Fprintf(out, "\n|%s\n", strings.Repeat("---|", 2+len(columns)))
}

func row(out io.Writer, name string, s scene, columns []entry, runs int, cell func(summary) string) []summary {
	fmt.Fprintf(out, "| %s | %d |", name, s.perSecond)
	var sums []summary
	for _, c := range columns {
		sum := run(s, c, runs)
		sums = append(sums, sum)
		fmt.Fprintf(out, " %s |", cell(sum))
	}
	fmt.Fprintln(out)
	return sums
}
