package proxy

import "sync/atomic"

// promptness says whether a backend tends to have answered by the time that a busy
// proxy has dealt with all else that is ready. Then its answer is read when that is
// done, without waiting to be told of it: Go's poller tells of what came last first,
// so that who is told waits longer, and less evenly.
type promptness struct{ score atomic.Int32 }

const (
	// Of three answers two must have been there, or it is not tried for some
	// requests: to find nothing costs a system call.
	mostPrompt = 8
	lateCosts  = 2
	lateRest   = 32
)

// expected reports whether to try it for the next request.
func (p *promptness) expected() bool {
	if p.score.Load() >= 0 {
		return true
	}
	p.score.Add(1)
	return false
}

// found notes how that went.
func (p *promptness) found(answered bool) {
	switch score := p.score.Load(); {
	case answered:
		p.score.Store(min(score+1, mostPrompt))
	case score >= lateCosts:
		p.score.Store(score - lateCosts)
	default:
		p.score.Store(-lateRest)
	}
}
