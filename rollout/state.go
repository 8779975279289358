package rollout

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// A Phase is where a rollout stands. The package comment has the diagram.
type Phase string

// The phases. Idle is the phase before the first plan; a rollout ends Succeeded
// or RolledBack.
const (
	Idle        Phase = "idle"
	Advancing   Phase = "advancing"    // it carries out its steps
	Paused      Phase = "paused"       // it stays where it is until somebody resumes
	RollingBack Phase = "rolling back" // the old version gets everything, the new one is stopped
	RolledBack  Phase = "rolled back"  // the old version runs, and the new one does not
	Succeeded   Phase = "succeeded"    // the new version runs, and the old one does not
)

// Ended reports whether nothing is under way.
func (p Phase) Ended() bool { return p == Idle || p == RolledBack || p == Succeeded }

// State is everything that is known of the rollouts of an application. It is a
// value: [Config.Step] and [Config.Control] return a new one and leave theirs
// alone. As JSON it is what a [Store] keeps; what is only true of this process
// is left out.
type State struct {
	// Format is that of the stored form, so that an older program does not
	// misread what a newer one has stored.
	Format int `json:"format"`

	// Seq rises with every change that has to be recorded before it is acted upon.
	Seq uint64 `json:"seq"`
	// Epoch rises when a Runner takes over, and Owner is the Runner's name.
	Epoch uint64 `json:"epoch"`
	Owner string `json:"owner,omitempty"`

	Phase  Phase     `json:"phase"`
	Since  time.Time `json:"since"`            // when the phase began
	Reason string    `json:"reason,omitempty"` // why the rollout is in this phase

	// Stable is the version that runs whatever becomes of the rollout; nil
	// before the first has been rolled out.
	Stable *Version `json:"stable,omitempty"`

	// Plan is that of this rollout, or of the last one if it has ended. Number
	// counts rollouts, and Attempt how often this one was tried.
	Plan    *Plan `json:"plan,omitempty"`
	Number  int   `json:"number"`
	Attempt int   `json:"attempt"`

	Step    int           `json:"step"`              // index of the step that is carried out
	Entered time.Time     `json:"entered"`           // when it began
	Held    time.Duration `json:"held"`              // how much of its time has counted
	Stalled time.Duration `json:"stalled,omitempty"` // how long there was no progress

	// PausedBy says who paused, while the phase is Paused.
	PausedBy PauseCause `json:"pausedBy,omitempty"`
	// Promoted: all traffic is to be on the new version, and no verdict counts.
	Promoted bool `json:"promoted,omitempty"`
	// Final: the old version is being stopped, and Stable is the new one.
	Final bool `json:"final,omitempty"`

	// Next is a plan that supersedes this rollout, and begins when it has ended.
	Next *Plan `json:"next,omitempty"`

	// Retired versions are to be stopped, and get no traffic.
	Retired []Retirement `json:"retired,omitempty"`

	// Weights are the newest that were wanted, and Applied is the revision that
	// is known to be applied; another one means that it is not known.
	Weights Weights `json:"weights"`
	Applied uint64  `json:"applied"`

	// Window is the traffic since the weights were applied, and Windows that
	// under earlier ones, oldest first.
	Window  Window   `json:"window"`
	Windows []Window `json:"windows,omitempty"`
	// Restarts is how often the new version was restarted in this attempt, whatever
	// its weight was. It counts for every verdict: those in the windows are older.
	Restarts uint64 `json:"restarts,omitempty"`
	// Judgement is the last one of this rollout, and JudgedBy what made it.
	Judgement *Judgement `json:"judgement,omitempty"`
	JudgedBy  string     `json:"judgedBy,omitempty"`

	// Events has the newest events, oldest first, and before them the newest
	// changes of phase.
	Events   []Event `json:"events,omitempty"`
	EventSeq uint64  `json:"eventSeq"`

	// Counters of the rollouts, over restarts.
	Counters RolloutCounters `json:"counters"`

	live live
}

// stateFormat rises when a State is stored in a way that an older program would
// misread.
const stateFormat = 1

// PauseCause says who paused a rollout.
type PauseCause string

// Who paused.
const (
	PausedByPlan    PauseCause = "plan"    // a Pause step
	PausedByUser    PauseCause = "user"    // Runner.Pause
	PausedByVerdict PauseCause = "verdict" // the rule of an Analyze or Gate step
	PausedByWatch   PauseCause = "watch"   // the rule of Plan.Watch
)

// A Retirement is a version that is to be stopped.
type Retirement struct {
	Version Version `json:"version"`
	// Void is how many of the stops under way do not count, since they had begun
	// before the version was, or may have been, started.
	Void int `json:"void,omitempty"`
	// Stopped: it has stopped, but a call to start it has not returned. When it
	// has, or another Runner takes over, it is stopped once more.
	Stopped bool `json:"stopped,omitempty"`
	// Waited is how long the stop has taken, and GivenUp whether the rollout
	// does not wait for it any more. It is still tried.
	Waited  time.Duration `json:"waited,omitempty"`
	GivenUp bool          `json:"givenUp,omitempty"`
}

// waitedFor reports whether the rollout does not end before it.
func (r Retirement) waitedFor() bool { return !r.GivenUp && !r.Stopped }

// RolloutCounters count what became of rollouts.
type RolloutCounters struct {
	Begun      uint64 `json:"begun"`
	Succeeded  uint64 `json:"succeeded"`
	RolledBack uint64 `json:"rolledBack"`
	Superseded uint64 `json:"superseded"` // plans that gave way to a newer one
	Retried    uint64 `json:"retried"`
	Failed     uint64 `json:"failed"` // verdicts that were Fail and made a difference
}

// live is what is true of this process only.
type live struct {
	seen  time.Time     // the last look
	clock time.Duration // the time that looks have seen pass; see tick
	jumps uint64        // looks that did not follow the one before closely

	versions map[string]liveVersion
	retry    map[string]retry // by action key
	next     map[string]time.Duration

	reassert bool // send the weights again once they are applied
	back     bool // the weights to be sent take traffic back: they do not wait for the store

	counting bool               // time counts for the step
	ripening bool               // time counts for the stops of retired versions
	last     map[string]Traffic // the last that Stats has told, under these weights
	windowAt time.Duration      // when the window began
	part     Window             // the last partLength of it
	partAt   time.Duration      // when that began
	closed   closed             // the window before it
	blind    time.Time          // since when the plan's Watch sees nothing; zero if it does
	gate     *Judgement         // the last of the gate of this step
	gateStep int
	ignored  bool // a failure whose rule is to continue was told
}

// liveVersion is what is known of a version that is to run.
type liveVersion struct {
	started bool // Start has returned
	was     bool // it has been ready since
	ready   Readiness
	misses  int // calls to Ready in a row that failed
	starts  int // calls to start it that have not returned
	void    int // those among them that do not count: they had begun before it was to be stopped
	stops   int // calls to stop it that have not returned

	counted  bool   // restarts is known
	restarts uint64 // the last that Stats has told
}

// closed is a window that ended because the weights changed, and is the last of
// State.Windows. A call to Stats that was under way then tells the rest of it.
type closed struct {
	revision uint64 // of its weights; 0 if there is none
	last     map[string]Traffic
	weights  Weights
}

// retry is the backoff of an action.
type retry struct {
	failures int
	at       time.Duration // by live.clock
	err      string
}

func (s State) clone() State {
	s.Retired = slices.Clone(s.Retired)
	s.Windows = slices.Clone(s.Windows)
	s.Events = slices.Clone(s.Events)
	l := &s.live
	l.versions = cloneMap(l.versions)
	l.retry = cloneMap(l.retry)
	l.next = cloneMap(l.next)
	l.last, l.closed.last = maps.Clone(l.last), maps.Clone(l.closed.last)
	return s
}

func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return map[K]V{}
	}
	return maps.Clone(m)
}

// newVersion returns the version that is rolled out: that of the plan while the rollout
// is under way and has not replaced the stable one.
func (s State) newVersion() *Version {
	if s.Plan == nil || s.Final || s.Phase != Advancing && s.Phase != Paused {
		return nil
	}
	v := s.Plan.version()
	return &v
}

// wanted returns the versions that are to run, newest first.
func (s State) wanted() []Version {
	var w []Version
	if v := s.newVersion(); v != nil {
		w = append(w, *v)
	}
	if s.Stable != nil {
		w = append(w, *s.Stable)
	}
	return w
}

func (s State) wants(version string) bool {
	return slices.ContainsFunc(s.wanted(), func(v Version) bool { return v.ID == version })
}

func (s State) retired(version string) *Retirement {
	i := slices.IndexFunc(s.Retired, func(r Retirement) bool { return r.Version.ID == version })
	if i < 0 {
		return nil
	}
	return &s.Retired[i]
}

// exist returns the versions that run, or may.
func (s State) exist() []string {
	var ids []string
	for _, v := range s.wanted() {
		ids = append(ids, v.ID)
	}
	for _, r := range s.Retired {
		if !r.Stopped {
			ids = append(ids, r.Version.ID)
		}
	}
	return ids
}

// Versions returns all versions that the state refers to, each once: the one that
// waits, that of the plan, which [Runner.Retry] may want again, the stable one, and
// those that are still being stopped. What belongs to other versions, such as
// their binaries, is needed no more, if the state is that of [Runner.State], and
// nobody is about to submit one.
func (s State) Versions() []string {
	var ids []string
	add := func(id string) {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, p := range []*Plan{s.Next, s.Plan} {
		if p != nil {
			add(p.Version)
		}
	}
	if s.Stable != nil {
		add(s.Stable.ID)
	}
	for _, r := range s.Retired {
		add(r.Version.ID)
	}
	return ids
}

// TakeOver returns the state as a new [Runner], or another shell around
// [Config.Step], must take it on: the owner knows nothing of what runs, and
// whatever its predecessor has under way counts for nothing. It is to be stored
// before anything else is done. The zero State is that of an application of
// which nothing is stored.
func (s State) TakeOver(owner string, now time.Time) State {
	m := &machine{s: s.clone(), now: now.Round(0)}
	m.s.Format = stateFormat
	m.s.Epoch++
	m.s.Owner = owner
	m.s.Applied = 0
	m.s.live = live{}
	if m.s.Phase == "" {
		m.s.Phase, m.s.Since = Idle, m.now
	}
	// What has stopped, and is wanted again, is not to be stopped once more.
	m.s.Retired = slices.DeleteFunc(m.s.Retired, func(r Retirement) bool { return r.Stopped && m.s.wants(r.Version.ID) })
	for i := range m.s.Retired {
		m.s.Retired[i].Void, m.s.Retired[i].Stopped = 0, false
	}
	if m.s.Plan != nil {
		m.event(TakenOver, "", "what is to run is started again if need be")
	}
	m.changed()
	return m.s
}

// isApplied reports whether the newest weights are known to be applied.
func (s State) isApplied() bool { return s.Applied == s.Weights.Revision && s.Applied != 0 }

// stale reports whether the newest weights are those of an earlier Runner, which
// must be sent again under a revision of this one's.
func (s State) stale() bool { return s.Weights.Revision>>32 != s.Epoch }

// stableUp reports whether the stable version has been ready in this process,
// or there is none.
func (s State) stableUp() bool {
	return s.Stable == nil || s.live.versions[s.Stable.ID].was
}

// onItsFeet reports whether what runs can take the traffic that the state gives
// it: the stable version is up, or not needed, as a promoted one is ready.
func (s State) onItsFeet() bool {
	return s.stableUp() || s.Promoted && s.Plan != nil && s.live.versions[s.Plan.Version].ready.Ready
}

// step returns the step that is carried out, if there is one.
func (s State) step() (Step, bool) {
	if s.Plan == nil || s.Phase != Advancing && s.Phase != Paused || s.Step >= len(s.Plan.Steps) {
		return Step{}, false
	}
	return s.Plan.Steps[s.Step], true
}

// watched reports whether the plan's Watch judges the new version: from when the
// plan gives it a weight until it is promoted.
func (s State) watched() bool {
	if s.newVersion() == nil || s.Stable == nil || s.Plan.Watch == nil || s.Promoted {
		return false
	}
	return hasWeight(s.Plan.weights(s.Step))
}

// counted returns the revision of the weights under which traffic is counted now, 0
// if there is none: they are not known to be applied, or the new version is not ready.
func (s State) counted() uint64 {
	if v := s.newVersion(); v == nil || !s.isApplied() || !s.live.versions[v.ID].ready.Ready {
		return 0
	}
	return s.Weights.Revision
}

// blind reports whether the plan's Watch is to judge, and sees nothing: the last
// call to Stats has failed, or none has returned under these weights yet.
func (s State) blind() bool {
	return s.watched() && s.isApplied() && s.Weights.Most(s.Plan.Version) > 0 &&
		(s.live.last == nil || s.live.retry[(Action{Kind: ActStats}).key()].failures > 0)
}

func (s State) stepName() string {
	step, ok := s.step()
	if !ok {
		return ""
	}
	return fmt.Sprintf("step %d of %d (%s)", s.Step+1, len(s.Plan.Steps), step)
}

// Readiness is what a Deployer says of a version.
type Readiness struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"` // why it is not ready
	// Failed: it will never be ready. A new version that has failed is rolled
	// back at once.
	Failed bool `json:"failed,omitempty"`
}
