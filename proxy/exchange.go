package proxy

import (
	"errors"
	"log/slog"
	"net/http"
	"time"
)

// An exchange is a request on its way, and what is to be told of it afterwards.
type exchange struct {
	p     *Proxy
	start instant
	route route

	// The attempt that is under way.
	b        *backend // nil between attempts
	began    instant
	kept     bool // it is on a connection that was kept, of which nothing has come yet
	took     time.Duration
	answered bool
	upgraded bool

	mirrored bool // it is a copy
	attempts int
	status   int   // as the client got it
	received int64 // bytes of the body of the response
	last     string
	lastErr  error
	lastKind ErrorKind
	issued   string // the value of a cookie that the client is to get
	trace    trace
}

// try begins an attempt on a backend that next has reserved.
func (x *exchange) try(b *backend, now instant) {
	x.b, x.began, x.kept, x.took, x.answered, x.upgraded = b, now, false, 0, false, false
	x.attempts++
	x.last = b.addr
	b.requests.Add(1)
	if x.attempts > 1 {
		b.retries.Add(1)
	} else if !x.mirrored {
		x.p.budget.request(now) // a retry gives no right to another
	}
}

// answer notes the head of a response.
func (x *exchange) answer(now instant, status int) {
	x.status = status
	x.b.statuses[status/100].Add(1)
	if status == http.StatusSwitchingProtocols {
		x.connected(now)
		return
	}
	x.took, x.answered = time.Duration(now-x.began), true
	x.b.answer(x.began, now, status)
}

// connected notes that a stream has begun: a connection that is passed on as it
// is, from now on.
func (x *exchange) connected(now instant) {
	x.took, x.answered, x.upgraded = time.Duration(now-x.began), true, true
	x.b.connected(x.began, now)
	x.b.upgraded()
}

// finish ends the attempt: the backend has said all.
func (x *exchange) finish() { x.leave(NoError) }

// lose ends the attempt without a whole response.
func (x *exchange) lose(now instant, kind ErrorKind, err error) {
	x.lastErr, x.lastKind = err, kind
	if x.answered {
		x.b.errors[kind].Add(1)
	} else {
		x.took = time.Duration(now - x.began)
		x.b.unanswered(x.began, now, kind)
		switch {
		case kind == Canceled:
		case kind == Broken && x.kept:
			x.route.spare = x.b // it may have ended no more than a connection that was idle for long
		case kind == BadResponse:
			x.b.garble(x.began, now)
		default:
			x.b.fail(x.began, now)
		}
	}
	if kind != Canceled {
		// It may be tried elsewhere: refused says what failed in the end.
		x.p.log(slog.LevelInfo, "attempt failed", "pool", x.b.pool.name, "backend", x.b.addr, "kind", kind.String(), "error", err)
	}
	x.leave(kind)
}

func (x *exchange) leave(kind ErrorKind) {
	b := x.b
	x.b = nil
	b.bytesOut.Add(uint64(x.received))
	b.release(x.upgraded)
	if report := x.p.opts.Outcome; report != nil {
		o := Outcome{Pool: b.pool.name, Backend: b.addr, Err: kind, Latency: x.took, Retry: x.attempts > 1, Mirror: x.mirrored}
		if x.answered {
			o.Status = x.status
		}
		report(o)
	}
}

// refused says why the request gets no response from a backend, or only a part.
func (x *exchange) refused(err error) {
	x.p.problem("request failed", "pool", x.route.pool.name, "backend", x.last, "attempts", x.attempts, "error", err, "last", x.lastErr)
}

// refusal returns how to answer a request that cannot be served.
func (x *exchange) refusal(kind ErrorKind, err error) (status int, text string) {
	if errors.Is(err, errNoBackend) {
		if x.lastErr == nil {
			return http.StatusServiceUnavailable, "no backend is available"
		}
		kind = x.lastKind // there is none beyond those that were tried
	}
	switch {
	case kind == TimedOut:
		return http.StatusGatewayTimeout, "the backend did not answer in time"
	case kind == DialFailed:
		return http.StatusBadGateway, "the backend cannot be reached"
	case kind == BadResponse:
		return http.StatusBadGateway, "the backend's answer is malformed"
	}
	return http.StatusBadGateway, "the connection to the backend broke"
}
