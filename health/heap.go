package health

// A heap holds targets by when they are due, as a tree of four children a
// node: half as deep as a binary one, and the children lie in one cache line.
// Each target knows its position, so that it can be moved and removed.
type heap struct{ entries []entry }

type entry struct {
	due instant
	t   *target
}

// first returns when the first target is due; ok is false if there is none.
func (h *heap) first() (due instant, ok bool) {
	if len(h.entries) == 0 {
		return 0, false
	}
	return h.entries[0].due, true
}

// set puts a target in, or moves it.
func (h *heap) set(t *target, due instant) {
	if t.pos < 0 {
		t.pos = int32(len(h.entries))
		h.entries = append(h.entries, entry{due, t})
		h.up(t.pos)
		return
	}
	old := h.entries[t.pos].due
	h.entries[t.pos].due = due
	if due < old {
		h.up(t.pos)
	} else {
		h.down(t.pos)
	}
}

// remove takes a target out, if it is in.
func (h *heap) remove(t *target) {
	if t.pos < 0 {
		return
	}
	i, last := t.pos, int32(len(h.entries)-1)
	h.swap(i, last)
	h.entries[last] = entry{}
	h.entries = h.entries[:last]
	t.pos = -1
	if i < last {
		h.up(i)
		h.down(i)
	}
	if c := cap(h.entries); c > 1024 && len(h.entries) < c/4 {
		h.entries = append(make([]entry, 0, c/2), h.entries...)
	}
}

func (h *heap) up(i int32) {
	for i > 0 {
		parent := (i - 1) / 4
		if h.entries[parent].due <= h.entries[i].due {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h *heap) down(i int32) {
	n := int32(len(h.entries))
	for {
		least := i
		for child := 4*i + 1; child <= 4*i+4 && child < n; child++ {
			if h.entries[child].due < h.entries[least].due {
				least = child
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}

func (h *heap) swap(i, j int32) {
	h.entries[i], h.entries[j] = h.entries[j], h.entries[i]
	h.entries[i].t.pos, h.entries[j].t.pos = i, j
}
