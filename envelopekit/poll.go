package envelopekit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/metrics"
	"github.com/ServiceWeaver/weaver/runtime/profiling"
	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// metricsTimeout is how long the answer to a question for metrics is waited
// for: longer than any caller waits, since an answer that nobody takes is lost
// for good.
const metricsTimeout = 30 * time.Second

// A metricsState is what the metrics of one weavelet were when last heard of.
type metricsState struct {
	mu    sync.Mutex
	known map[uint64]*metrics.MetricSnapshot
	asked chan struct{} // closed when the question under way is over; nil if there is none
}

// live returns the replicas that run, in the order of groups and numbers.
func (d *Deployment) live() []*replica {
	d.mu.Lock()
	defer d.mu.Unlock()
	var live []*replica
	for _, g := range d.groups {
		for _, s := range g.slots {
			if s.replica != nil {
				live = append(live, s.replica)
			}
		}
	}
	return live
}

// spawn starts a goroutine that Run waits for, unless Run is over.
func (d *Deployment) spawn(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return false
	}
	d.wg.Go(f)
	return true
}

// Metrics returns the metrics of all weavelets that run. It may be called from
// many goroutines: each weavelet is asked one question at a time, whose answer
// all of them share. A weavelet that does not answer within Liveness.Timeout
// contributes what it said last; when its answer comes, it is not lost.
func (d *Deployment) Metrics(ctx context.Context) ([]*metrics.MetricSnapshot, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.opts.Liveness.Timeout, errHung)
	defer cancel()
	live := d.live()
	questions := make([]<-chan struct{}, len(live))
	for i, r := range live {
		questions[i] = d.askMetrics(r)
	}
	for _, asked := range questions {
		select {
		case <-asked:
		case <-ctx.Done():
			if !errors.Is(context.Cause(ctx), errHung) {
				return nil, fmt.Errorf("metrics of %s: %w", d.app.Name, context.Cause(ctx))
			}
		}
	}
	var all []*metrics.MetricSnapshot
	for _, r := range live {
		all = r.metrics.appendTo(all)
	}
	return all, nil
}

// askMetrics asks the weavelet for its metrics, unless that is under way, and
// returns a channel that is closed when the answer has been taken over.
func (d *Deployment) askMetrics(r *replica) <-chan struct{} {
	m := &r.metrics
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asked != nil {
		return m.asked
	}
	asked := make(chan struct{})
	m.asked = asked
	ask := func() {
		ctx, cancel := context.WithTimeout(d.life, metricsTimeout)
		defer cancel()
		update, err := r.weavelet.Metrics(ctx)
		m.mu.Lock()
		defer m.mu.Unlock()
		if err == nil {
			m.take(update)
		}
		m.asked = nil
		close(asked)
	}
	if !d.spawn(ask) {
		m.asked = nil
		close(asked)
	}
	return asked
}

// take takes an update over. Unlike upstream's importer it does not stop at a
// value without a definition, which follows when an earlier answer was lost.
func (m *metricsState) take(update *protos.MetricUpdate) {
	if m.known == nil {
		m.known = map[uint64]*metrics.MetricSnapshot{}
	}
	for _, def := range update.GetDefs() {
		m.known[def.Id] = &metrics.MetricSnapshot{
			Id:     def.Id,
			Type:   def.Typ,
			Name:   def.Name,
			Labels: def.Labels,
			Bounds: def.Bounds,
			Help:   def.Help,
		}
	}
	for _, v := range update.GetValues() {
		if s, ok := m.known[v.Id]; ok {
			s.Value, s.Counts = v.Value, v.Counts
		}
	}
}

// appendTo appends copies of the snapshots, sorted by id, to all.
func (m *metricsState) appendTo(all []*metrics.MetricSnapshot) []*metrics.MetricSnapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := len(all)
	for _, s := range m.known {
		all = append(all, s.Clone())
	}
	slices.SortFunc(all[first:], func(a, b *metrics.MetricSnapshot) int {
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

// CallCounts finds in metrics how often components have called each other, for
// a placement that keeps chatty pairs together (Options.CallCounts).
func CallCounts(all []*metrics.MetricSnapshot) map[placement.Edge]float64 {
	const methodCount = "serviceweaver_method_count" // kept by generated code
	calls := map[placement.Edge]float64{}
	for _, m := range all {
		if m.Name == methodCount && m.Value > 0 {
			calls[placement.Edge{From: m.Labels["caller"], To: m.Labels["component"]}] += m.Value
		}
	}
	return calls
}

// A Report is what one replica answered to a question.
type Report[T any] struct {
	Group   string
	Replica int
	Address string
	Value   T     // valid if Err is nil
	Err     error // the weavelet did not answer, or refused
}

// poll asks all replicas that run at the same time; none waits for another.
func poll[T any](ctx context.Context, d *Deployment, ask func(context.Context, Weavelet) (T, error)) []Report[T] {
	ctx, cancel := context.WithTimeout(ctx, d.opts.Liveness.Timeout)
	defer cancel()
	live := d.live()
	reports := make([]Report[T], len(live))
	var wg sync.WaitGroup
	for i, r := range live {
		reports[i] = Report[T]{Group: r.slot.g.Name, Replica: r.slot.number, Address: r.address}
		wg.Go(func() { reports[i].Value, reports[i].Err = ask(ctx, r.weavelet) })
	}
	wg.Wait()
	return reports
}

// Health asks all weavelets which of their components have initialized. One
// that does not answer within Liveness.Timeout has an error in its report.
func (d *Deployment) Health(ctx context.Context) []Report[*protos.GetHealthReply] {
	return poll(ctx, d, func(ctx context.Context, w Weavelet) (*protos.GetHealthReply, error) { return w.Health(ctx) })
}

// Load asks all weavelets for their load since the last call. There should be
// one caller, since asking resets the load.
func (d *Deployment) Load(ctx context.Context) []Report[*protos.LoadReport] {
	return poll(ctx, d, func(ctx context.Context, w Weavelet) (*protos.LoadReport, error) { return w.Load(ctx) })
}

// LoadAt asks the weavelet at an address for its load since the last call of
// Load or LoadAt.
func (d *Deployment) LoadAt(ctx context.Context, address string) (*protos.LoadReport, error) {
	for _, r := range d.live() {
		if r.address == address {
			return r.weavelet.Load(ctx)
		}
	}
	return nil, fmt.Errorf("load at %s: %w", address, ErrEnded)
}

// Profile returns the sum of the profiles of all groups, in pprof's format. Of
// each group one replica is asked, and counts for all. A group that cannot be
// profiled is left out; the error then says so.
func (d *Deployment) Profile(ctx context.Context, req *protos.GetProfileRequest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, d.opts.Liveness.Timeout+time.Duration(req.GetCpuDurationNs()))
	defer cancel()
	byGroup := map[*group][]func() ([]byte, error){}
	for _, r := range d.live() {
		g := r.slot.g
		byGroup[g] = append(byGroup[g], func() ([]byte, error) { return r.weavelet.Profile(ctx, req) })
	}
	var groups [][]func() ([]byte, error)
	for _, g := range d.groups {
		groups = append(groups, byGroup[g])
	}
	profile, err := profiling.ProfileGroups(groups)
	if err != nil {
		return profile, fmt.Errorf("profile %s: %w", d.app.Name, err)
	}
	return profile, nil
}
