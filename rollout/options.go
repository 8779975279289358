package rollout

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

// A Deployer carries out what a [Runner] wants. Its methods are called from
// several goroutines, and calls to the same method may overlap: a call that
// does not return in time is left behind and made again, and one that is not
// wanted any more has its context cancelled and is not waited for.
//
// Every method says what is to be, so calling it again changes nothing.
type Deployer interface {
	// Start lets the version run, without traffic. It returns once that is under
	// way; Ready tells when it is done. After a restart of this process it is
	// called for every version that is to run, so that versions that ended with
	// the process come back. An error is tried again, unless it wraps
	// ErrPermanent. If Stop is called while Start hangs, Stop is called once more
	// when Start has returned; and Start is not called while a call to stop the
	// version has not returned.
	Start(ctx context.Context, version string) error

	// Ready says whether the version, as a whole, can take traffic. It is called
	// every Config.Interval, after Start has returned. Three errors in a row
	// mean that it is not ready.
	Ready(ctx context.Context, version string) (Readiness, error)

	// SetWeights divides the traffic, and returns when it is divided. It gets
	// the whole, not a difference. It must ignore weights whose Revision is
	// lower than one it has been given before. Versions without a share get no
	// new request from when it has returned.
	SetWeights(ctx context.Context, w Weights) error

	// Stop ends the version, which has no share of any traffic, and returns when
	// it has ended. Requests in flight have the given time to finish. It also
	// succeeds if the version does not run. The context has more time than that.
	Stop(ctx context.Context, version string, drain time.Duration) error

	// Stats returns the traffic of versions since they started to run, with
	// Options.ByPlace that at each place; counters may begin anew at any time.
	// Versions and places may be missing if they had none.
	Stats(ctx context.Context) (map[string]Traffic, error)
}

// ErrPermanent is to be wrapped by an error of [Deployer].Start that would come
// again: the rollout goes back at once.
var ErrPermanent = errors.New("trying again is of no use")

// A GateFunc gives a verdict on a rollout: it calls a URL, asks a person, looks
// at a dashboard. Inconclusive means that it is to be asked again; so does an
// error. The context ends with Options.CallTimeout. It is called in a goroutine of
// its own; a call that ignores its context is left behind, and the next one may come
// while it goes on.
type GateFunc func(ctx context.Context, s State) (Judgement, error)

// Options configure a [Runner]. The zero value is good for use, but forgets
// everything when the process ends.
type Options struct {
	// App names the application in the Store. Empty means "app".
	App string

	// Store keeps the state. Nil means a MemoryStore.
	Store Store

	// Config holds the times of the decisions.
	Config Config

	// Gates are those that the plans name.
	Gates map[string]GateFunc

	// ByPlace says that the Deployer's Stats tell Traffic.Places. The versions are
	// then compared only at those places at which both have traffic, so a plan that
	// compares them may give some places another weight than others, as Waves do.
	// An answer without places is an error.
	ByPlace bool

	// Listeners and Locations are those that there are: a plan that names another
	// is refused. Empty means that any is good.
	Listeners, Locations []string

	// CallTimeout is how long Start, SetWeights and a gate may take, and Stop
	// beyond its drain. Zero means 30 s.
	CallTimeout time.Duration

	// AskTimeout is how long Ready, Stats and the Store may take. Zero means 5 s.
	AskTimeout time.Duration

	// MaxHung is how many calls that ignore their context are left behind, in a
	// goroutine each; as many again of calls that take traffic back or stop
	// versions. There are at most four for the same purpose. Further calls are
	// not made until one has returned. Zero means 64.
	MaxHung int

	// EventLimit is how many events are kept for readers of Events. Zero means
	// 1024.
	EventLimit int
}

func (o Options) withDefaults() (Options, error) {
	o.App = cmp.Or(o.App, "app")
	if o.Store == nil {
		o.Store = &MemoryStore{}
	}
	o.CallTimeout = cmp.Or(o.CallTimeout, 30*time.Second)
	o.AskTimeout = cmp.Or(o.AskTimeout, 5*time.Second)
	o.MaxHung = cmp.Or(o.MaxHung, 64)
	o.EventLimit = cmp.Or(o.EventLimit, 1024)
	var errs []error
	for _, f := range []struct {
		name string
		n    int64
	}{
		{"CallTimeout", int64(o.CallTimeout)}, {"AskTimeout", int64(o.AskTimeout)},
		{"MaxHung", int64(o.MaxHung)}, {"EventLimit", int64(o.EventLimit)},
	} {
		if f.n < 0 {
			errs = append(errs, fmt.Errorf("field Options.%s is %d: it must not be negative", f.name, f.n))
		}
	}
	for name, gate := range o.Gates {
		if name == "" || gate == nil {
			errs = append(errs, fmt.Errorf("field Options.Gates[%q] has no name, or no function", name))
		}
	}
	var err error
	o.Config, err = o.Config.withDefaults()
	return o, errors.Join(append(errs, err)...)
}

// ownerName returns a name that no other Runner has.
func ownerName() string { return rand.Text() }
