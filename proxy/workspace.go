package proxy

import "sync"

// bufferSize is how much of a request, and of a response, is held at once. What
// fits is sent in one piece, and can be sent again.
const bufferSize = 16 << 10

// A workspace is what a connection needs while it has a request. Connections at
// rest have none.
type workspace struct {
	buf  [bufferSize]byte // from the client
	r, n int              // buf[r:n] has not been served
	req  requestHead      // at buf[r:]
	out  []byte           // what goes to the backend
	resp []byte           // from the backend; some, unless a head is larger
	some [bufferSize]byte
	res  responseHead // at resp[0:]
	body framing      // of the response
	head []byte       // of the response, as it goes to the client
	x    exchange
}

var workspaces = sync.Pool{New: func() any {
	w := new(workspace)
	w.resp = w.some[:]
	return w
}}

func newWorkspace() *workspace { return workspaces.Get().(*workspace) }

func (w *workspace) free() {
	w.r, w.n = 0, 0
	if cap(w.out) > 2*bufferSize {
		w.out = nil
	}
	if len(w.resp) > bufferSize {
		w.resp, w.head = w.some[:], nil
	}
	if len(w.res.fields) > maxFields {
		w.res.fields = nil
	}
	w.out, w.head = w.out[:0], w.head[:0]
	w.x = exchange{route: route{tried: w.x.route.tried[:0]}}
	workspaces.Put(w)
}

// grow makes room for a larger head of a response.
func (w *workspace) grow() {
	w.resp = append(make([]byte, 0, 2*len(w.resp)), w.resp...)
	w.resp = w.resp[:cap(w.resp)]
}

// compact moves what has not been served to the beginning of buf.
func (w *workspace) compact() {
	if w.r > 0 {
		w.n = copy(w.buf[:], w.buf[w.r:w.n])
		w.r = 0
	}
}

// The buffers that bodies are copied through where splice cannot.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}
