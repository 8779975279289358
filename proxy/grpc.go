package proxy

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The codes of gRPC that a proxy has a use for.
const (
	grpcDeadlineExceeded  = 4
	grpcResourceExhausted = 8
	grpcInternal          = 13
	grpcUnavailable       = 14
)

// isGRPC reports whether a request is one of gRPC; gRPC-Web is not.
func isGRPC(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// pastDeadline reports whether the deadline of a client of gRPC has passed. A
// backend that finds it so just resets the stream, and may be faster with that
// than the client: it has not failed.
func (q *request) pastDeadline() bool {
	return q.grpc && q.deadline > 0 && q.p.now()-q.start >= instant(q.deadline)
}

// failGRPC answers in gRPC's words in place of a backend. status is what other
// clients would get.
func (q *request) failGRPC(w http.ResponseWriter, status int, text string) {
	code := grpcUnavailable
	switch status {
	case http.StatusRequestEntityTooLarge:
		code = grpcResourceExhausted
	case http.StatusBadRequest:
		code = grpcInternal
	}
	if q.pastDeadline() {
		code, text = grpcDeadlineExceeded, "the deadline has passed"
	}
	q.bodiless = true
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(code))
	h.Set("Grpc-Message", text)
	w.WriteHeader(http.StatusOK)
}

// grpcTimeout reads the value of a grpc-timeout: at most eight digits and a unit.
// It returns 0 for what is none.
func grpcTimeout(s string) time.Duration {
	if len(s) < 2 || len(s) > 9 {
		return 0
	}
	unit, ok := map[byte]time.Duration{
		'H': time.Hour, 'M': time.Minute, 'S': time.Second,
		'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
	}[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if !ok || err != nil {
		return 0
	}
	// 99,999,999 hours are more than a Duration has: it is the largest then.
	if time.Duration(n) > math.MaxInt64/unit {
		return math.MaxInt64
	}
	return time.Duration(n) * unit
}
