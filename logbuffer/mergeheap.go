package logbuffer

// A head is an input that has something to read, and the key of its first entry.
type head[T any] struct {
	key int64
	in  *input[T]
}

// before is the order of the merged stream.
func (h head[T]) before(g head[T]) bool {
	return h.key < g.key || h.key == g.key && h.in.order < g.in.order
}

// A headHeap has the next head of the stream first. It is a heap with four
// children to a node: these lie side by side in memory, and a thousand inputs
// make five levels. Unlike a loser tree it does not care how many inputs there
// are that have nothing to read.
type headHeap[T any] []head[T]

const arity = 4

func (h *headHeap[T]) push(x head[T]) {
	*h = append(*h, x)
	h.up(len(*h) - 1)
}

// remove takes out the i-th head.
func (h *headHeap[T]) remove(i int) {
	s := *h
	last := len(s) - 1
	s[i] = s[last]
	s[last] = head[T]{}
	*h = s[:last]
	if i < last {
		h.down(i)
		h.up(i)
	}
}

func (h headHeap[T]) index(in *input[T]) int {
	for i := range h {
		if h[i].in == in {
			return i
		}
	}
	return -1
}

func (h headHeap[T]) up(i int) {
	x := h[i]
	for i > 0 {
		parent := (i - 1) / arity
		if !x.before(h[parent]) {
			break
		}
		h[i] = h[parent]
		i = parent
	}
	h[i] = x
}

func (h headHeap[T]) down(i int) {
	x := h[i]
	for {
		child := arity*i + 1
		if child >= len(h) {
			break
		}
		least := child
		for c := child + 1; c < min(child+arity, len(h)); c++ {
			if h[c].before(h[least]) {
				least = c
			}
		}
		if !h[least].before(x) {
			break
		}
		h[i] = h[least]
		i = least
	}
	h[i] = x
}

// An arrivalList has the inputs that have something to read, in the order in
// which they came to have it.
type arrivalList[T any] struct {
	first, last *input[T]
}

func (l *arrivalList[T]) add(in *input[T]) {
	in.earlier, in.later = l.last, nil
	if l.last != nil {
		l.last.later = in
	} else {
		l.first = in
	}
	l.last = in
}

func (l *arrivalList[T]) remove(in *input[T]) {
	if in.earlier != nil {
		in.earlier.later = in.later
	} else {
		l.first = in.later
	}
	if in.later != nil {
		in.later.earlier = in.earlier
	} else {
		l.last = in.earlier
	}
	in.earlier, in.later = nil, nil
}
