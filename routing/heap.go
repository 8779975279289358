package routing

// A loadHeap holds replicas ordered by key, the smallest on top; equal keys by
// number, so that the order never depends on history.
type loadHeap struct {
	key   []float64 // by replica
	items []int32
	pos   []int32 // of a replica in items, or -1
}

func (h *loadHeap) reset(replicas int) {
	h.key = grow(h.key, replicas)
	h.pos = grow(h.pos, replicas)
	for i := range h.pos {
		h.pos[i] = -1
	}
	h.items = h.items[:0]
}

func (h *loadHeap) less(a, b int32) bool {
	if h.key[a] != h.key[b] {
		return h.key[a] < h.key[b]
	}
	return a < b
}

// top returns the replica with the smallest key, or -1.
func (h *loadHeap) top() int32 {
	if len(h.items) == 0 {
		return -1
	}
	return h.items[0]
}

// set adds r or changes its key.
func (h *loadHeap) set(r int32, key float64) {
	h.key[r] = key
	if h.pos[r] < 0 {
		h.pos[r] = int32(len(h.items))
		h.items = append(h.items, r)
	}
	h.down(h.up(int(h.pos[r])))
}

// update changes the key of r if it is in the heap.
func (h *loadHeap) update(r int32, key float64) {
	if h.pos[r] >= 0 {
		h.set(r, key)
	}
}

// remove takes r out.
func (h *loadHeap) remove(r int32) {
	i := int(h.pos[r])
	if i < 0 {
		return
	}
	n := len(h.items) - 1
	h.place(i, h.items[n])
	h.items = h.items[:n]
	h.pos[r] = -1
	if i < n {
		h.down(h.up(i))
	}
}

func (h *loadHeap) place(i int, r int32) {
	h.items[i] = r
	h.pos[r] = int32(i)
}

func (h *loadHeap) up(i int) int {
	r := h.items[i]
	for i > 0 {
		p := (i - 1) / 2
		if !h.less(r, h.items[p]) {
			break
		}
		h.place(i, h.items[p])
		i = p
	}
	h.place(i, r)
	return i
}

func (h *loadHeap) down(i int) {
	r := h.items[i]
	for {
		c := 2*i + 1
		if c >= len(h.items) {
			break
		}
		if c+1 < len(h.items) && h.less(h.items[c+1], h.items[c]) {
			c++
		}
		if !h.less(h.items[c], r) {
			break
		}
		h.place(i, h.items[c])
		i = c
	}
	h.place(i, r)
}
