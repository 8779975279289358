package proxy

import (
	"fmt"
	"sync/atomic"
)

// An ErrorKind says why a request to a backend had no whole response.
type ErrorKind int

const (
	// NoError is what succeeded.
	NoError ErrorKind = iota

	// DialFailed: there was no connection, so the request was not sent.
	DialFailed

	// Broken: the connection ended before the response did.
	Broken

	// TimedOut: the response did not begin in time, or ceased.
	TimedOut

	// BadResponse: what came was no HTTP, too large, or ambiguous.
	BadResponse

	// Canceled: the client went away, or the request was ended from here. It
	// says nothing about the backend.
	Canceled

	errorKinds = iota
)

var errorNames = [errorKinds]string{"none", "dial failed", "broken", "timed out", "bad response", "canceled"}

// String returns the name of the kind, for people.
func (k ErrorKind) String() string {
	if k < 0 || k >= errorKinds {
		return fmt.Sprintf("ErrorKind(%d)", int(k))
	}
	return errorNames[k]
}

// counters are what is counted of a backend.
type counters struct {
	requests atomic.Uint64
	retries  atomic.Uint64 // attempts that were not the first
	errors   [errorKinds]atomic.Uint64
	statuses [6]atomic.Uint64 // by hundreds; 0 is not used
	bytesIn  atomic.Uint64    // bodies of requests
	bytesOut atomic.Uint64    // of responses
	open     atomic.Uint64    // taken though avoided
	recorder recorder
}

// Counts are what was counted since a proxy, a pool or a backend was made.
type Counts struct {
	Requests uint64 // sent to backends; each attempt is one
	Retries  uint64 // those of them that were not the first attempt of theirs
	FailOpen uint64 // those of them that went to a backend though it was avoided, since all were

	Errors   [errorKinds]uint64 // by ErrorKind
	Statuses [6]uint64          // by the first digit of the status

	BytesIn  uint64 // of bodies of requests
	BytesOut uint64 // of bodies of responses

	Latency Histogram // from the request to the head of the response
}

func (c *counters) counts() Counts {
	n := Counts{
		Requests: c.requests.Load(),
		Retries:  c.retries.Load(),
		FailOpen: c.open.Load(),
		BytesIn:  c.bytesIn.Load(),
		BytesOut: c.bytesOut.Load(),
		Latency:  c.recorder.snapshot(),
	}
	for i := range n.Errors {
		n.Errors[i] = c.errors[i].Load()
	}
	for i := range n.Statuses {
		n.Statuses[i] = c.statuses[i].Load()
	}
	return n
}

func (n *Counts) add(other Counts) {
	n.Requests += other.Requests
	n.Retries += other.Retries
	n.FailOpen += other.FailOpen
	n.BytesIn += other.BytesIn
	n.BytesOut += other.BytesOut
	for i, c := range other.Errors {
		n.Errors[i] += c
	}
	for i, c := range other.Statuses {
		n.Statuses[i] += c
	}
	n.Latency.add(&other.Latency)
}
