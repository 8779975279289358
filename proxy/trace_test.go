package proxy_test

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

const (
	traceID  = "0af7651916cd43dd8448eb211c80319c"
	parentID = "b7ad6b7169203331"
)

// TestTraceparentParsed has the rules of W3C Trace Context, section 3.2, and cases of
// its test suite.
func TestTraceparentParsed(t *testing.T) {
	valid := "00-" + traceID + "-" + parentID + "-01"
	for _, test := range []struct {
		header string
		ok     bool
		flags  byte
	}{
		{valid, true, 1},
		{"00-" + traceID + "-" + parentID + "-00", true, 0},
		{"00-" + traceID + "-" + parentID + "-ff", true, 0xff},
		{"00-" + traceID + "-" + parentID + "-02", true, 2},
		{"01-" + traceID + "-" + parentID + "-01", true, 1},
		{"cc-" + traceID + "-" + parentID + "-01", true, 1},
		{"cc-" + traceID + "-" + parentID + "-01-what-the-future-brings", true, 1},
		{"cc-" + traceID + "-" + parentID + "-01.what", false, 0},
		{"ff-" + traceID + "-" + parentID + "-01", false, 0},
		{valid + "-more", false, 0},
		{valid + ".", false, 0},
		{valid + "-", false, 0},
		{"", false, 0},
		{"00", false, 0},
		{valid[:54], false, 0},
		{" " + valid, false, 0},
		{"00-" + strings.Repeat("0", 32) + "-" + parentID + "-01", false, 0},
		{"00-" + traceID + "-" + strings.Repeat("0", 16) + "-01", false, 0},
		{"00-" + strings.ToUpper(traceID) + "-" + parentID + "-01", false, 0},
		{"00-" + traceID + "-" + strings.ToUpper(parentID) + "-01", false, 0},
		{"00-" + traceID + "-" + parentID + "-0A", false, 0},
		{"0A-" + traceID + "-" + parentID + "-01", false, 0},
		{"00-" + traceID + "-" + parentID + "-xx", false, 0},
		{".0-" + traceID + "-" + parentID + "-01", false, 0},
		{"00-." + traceID[1:] + "-" + parentID + "-01", false, 0},
		{"00-" + traceID + "-." + parentID[1:] + "-01", false, 0},
		{"00_" + traceID + "_" + parentID + "_01", false, 0},
		{"0-" + traceID + "-" + parentID + "-001", false, 0},
	} {
		id, parent, flags, ok := proxy.ParseTraceparent(test.header)
		if assert.Equal(t, test.ok, ok, "%q", test.header) && ok {
			assert.Equal(t, traceID, hex.EncodeToString(id[:]))
			assert.Equal(t, parentID, hex.EncodeToString(parent[:]))
			assert.Equal(t, test.flags, flags)
		} else {
			assert.Zero(t, id)
			assert.Zero(t, parent)
		}
	}
}

// spans keep what they are told.
type spans struct {
	mu  sync.Mutex
	all []proxy.Span
}

func (s *spans) add(span proxy.Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, span)
}

func (s *spans) wait(t testing.TB, n int) []proxy.Span {
	t.Helper()
	soon(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.all) >= n })
	require.Len(t, s.all, n)
	return s.all
}

// newTraced answers with the trace headers that it got.
func newTraced(t testing.TB) *origin {
	return newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%q %q", r.Header["Traceparent"], r.Header["Tracestate"])
	})
}

// TestTraceContinued: a sampled trace goes on with the proxy as a span.
func TestTraceContinued(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		var got spans
		o := newTraced(t)
		r := newRig(t, proxy.Options{Span: got.add}, o.addr)
		before := time.Now()
		body := get(t, w.client(t), r.url("/path?q"), "Traceparent", "00-"+traceID+"-"+parentID+"-01", "Tracestate", "a=b")
		span := got.wait(t, 1)[0]
		assert.Equal(t, traceID, hex.EncodeToString(span.TraceID[:]))
		assert.Equal(t, parentID, hex.EncodeToString(span.ParentID[:]))
		assert.NotZero(t, span.SpanID)
		assert.NotEqual(t, span.ParentID, span.SpanID)
		assert.Equal(t, fmt.Sprintf(`["00-%s-%x-01"] ["a=b"]`, traceID, span.SpanID), body)
		assert.Equal(t, "GET", span.Method)
		assert.Equal(t, "/path?q", span.Target)
		assert.Equal(t, r.addr, span.Host)
		assert.Equal(t, "127.0.0.1", span.Client.String())
		assert.Equal(t, proxy.DefaultPool, span.Pool)
		assert.Equal(t, o.addr, span.Backend)
		assert.Equal(t, 200, span.Status)
		assert.Equal(t, 1, span.Attempts)
		assert.False(t, span.End.Before(span.Start))
		assert.WithinRange(t, span.Start, before.Add(-time.Second), time.Now().Add(time.Second))

		body = get(t, w.client(t), r.url("/"), "Traceparent", "00-"+traceID+"-"+parentID+"-00")
		assert.Contains(t, body, "00-"+traceID)
		assert.NotContains(t, body, parentID)
		assert.Contains(t, body, `-00"]`)
		got.wait(t, 1) // one that is not sampled is not reported
	})
}

// TestTraceStarted: without a valid traceparent there is a new trace, and the
// state of the other does not belong to it.
func TestTraceStarted(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		var got spans
		r := newRig(t, proxy.Options{Span: got.add, TraceShare: 1}, newTraced(t).addr)
		c := w.client(t)
		ids := map[[16]byte]bool{}
		valid := "00-" + traceID + "-" + parentID + "-01"
		for i, header := range [][]string{
			nil,
			{"Traceparent", "nonsense", "Tracestate", "a=b"},
			{"Traceparent", "ff-" + traceID + "-" + parentID + "-01", "Tracestate", "a=b"},
			{"Traceparent", valid, "Traceparent", valid, "Tracestate", "a=b"},
			{"Tracestate", "a=b"},
		} {
			body := get(t, c, r.url("/"), header...)
			span := got.wait(t, i+1)[i]
			assert.Zero(t, span.ParentID)
			assert.NotZero(t, span.TraceID)
			ids[span.TraceID] = true
			assert.Equal(t, fmt.Sprintf(`["00-%x-%x-01"] []`, span.TraceID, span.SpanID), body, "%v", header)
		}
		assert.Len(t, ids, 5)
	})
}

// TestTraceShare: traces started here are sampled as often as that says.
func TestTraceShare(t *testing.T) {
	for _, share := range []float64{0, 0.25} {
		var got spans
		r := newRig(t, proxy.Options{Span: got.add, TraceShare: share}, newTraced(t).addr)
		c := fastWay.client(t)
		for range 400 {
			get(t, c, r.url("/"))
		}
		got.mu.Lock()
		assert.InDelta(t, 400*share, len(got.all), 60*min(1, share*4))
		got.mu.Unlock()
		r.close()
	}
}

// TestTraceOff: without Span trace headers pass as they are.
func TestTraceOff(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		r := newRig(t, proxy.Options{}, newTraced(t).addr)
		c := w.client(t)
		assert.Equal(t, `["nonsense"] ["a=b"]`, get(t, c, r.url("/"), "Traceparent", "nonsense", "Tracestate", "a=b"))
		assert.Equal(t, `[] []`, get(t, c, r.url("/")))
	})
}
