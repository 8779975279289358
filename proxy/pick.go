package proxy

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
)

// A backendSet is the backends of a pool. It is immutable; weights are those of
// when it was made.
type backendSet struct {
	all   []*backend
	sums  []int64  // of weights up to each; nil if all are the same
	least int64    // of weights
	salts []uint64 // for Hash
}

func newBackendSet(all []*backend) *backendSet {
	s := &backendSet{all: all}
	weights := make([]int64, len(all))
	uneven := false
	for i, b := range all {
		weights[i] = b.weight.Load()
		uneven = uneven || weights[i] != weights[0]
		s.salts = append(s.salts, hashKey(0, b.addr))
	}
	if uneven {
		s.least = slices.Min(weights)
		var sum int64
		for _, w := range weights {
			sum += w
			s.sums = append(s.sums, sum)
		}
	}
	return s
}

// two returns two backends at random, each as often as its weight says. twice is
// set if weights would have the second be the first again.
func (s *backendSet) two() (i, j int, twice bool) {
	n := len(s.all)
	if s.sums == nil {
		i, j = rand.IntN(n), rand.IntN(n-1)
		if j >= i {
			j++
		}
		return i, j, false
	}
	// Weights are so many servers of the least weight, of which two are drawn.
	sum := s.sums[n-1]
	i = s.at(rand.Int64N(sum))
	begin, end := int64(0), s.sums[i]
	if i > 0 {
		begin = s.sums[i-1]
	}
	at := rand.Int64N(sum - s.least)
	if at >= end-s.least {
		at += s.least
	}
	if j = s.at(at); j != i {
		return i, j, false
	}
	at = rand.Int64N(sum - (end - begin))
	if at >= begin {
		at += end - begin
	}
	return i, s.at(at), true
}

// at returns the backend whose part of the sum of weights has n in it.
func (s *backendSet) at(n int64) int {
	return sort.Search(len(s.sums), func(i int) bool { return n < s.sums[i] })
}

// pick reserves a backend for a request, other than those that it was tried on.
// open is set if all are avoided, and it is one of those. It returns nil if there
// is none but those that were tried.
func (p *Pool) pick(now instant, r *route) (b *backend, open bool) {
	b, open = p.take(now, r)
	if open != p.open.Load() && b != nil && (open || b.failures.Load() == 0) {
		p.opens(open)
	}
	return b, open
}

// opens notes, and says, that the pool begins or ceases to fail open. One request
// that finds out whether a backend works again does not end it.
func (p *Pool) opens(open bool) {
	if !p.open.CompareAndSwap(!open, open) {
		return
	}
	if open {
		p.proxy.problem("all backends are avoided: requests go there all the same", "pool", p.name)
	} else {
		p.proxy.problem("not all backends are avoided any more", "pool", p.name)
	}
}

func (p *Pool) take(now instant, r *route) (b *backend, open bool) {
	s := p.set.Load()
	if s == nil {
		return nil, false
	}
	first := -1
	switch {
	case len(s.all) == 0:
		return nil, false
	case len(s.all) == 1:
		first = 0
	case p.proxy.opts.Balance == RoundRobin:
		first = s.turn(p.turn.Add(1) - 1)
	case r.hashed:
		return s.rendezvous(now, r)
	default:
		first = s.better(now, r.stream)
	}
	if b := s.all[first]; b.fits(now, r, r.least()) && b.acquire(now) {
		return b, false
	}
	return s.any(now, first, r)
}

// least returns which standing suffices for the first choice. A request that has
// failed already finds out about no other backend that may fail.
func (r *route) least() standing {
	if len(r.tried) > 0 {
		return sound
	}
	return doubtful
}

// fits reports whether the backend may be given the request: it is well enough,
// and the request was not tried there.
func (b *backend) fits(now instant, r *route, least standing) bool {
	return b.standing(now) <= least && !slices.Contains(r.tried, b)
}

// turn returns the backend of the n-th turn: by weight if weights differ.
func (s *backendSet) turn(n uint64) int {
	if s.sums == nil {
		return int(n % uint64(len(s.all)))
	}
	// A golden-ratio sequence visits ranges in proportion to their length, and
	// evenly in time.
	x := float64(n*0x9e3779b97f4a7c15>>11) / (1 << 53)
	return s.at(int64(x * float64(s.sums[len(s.sums)-1])))
}

// better returns the better of two random backends: the less crowded one for a
// stream. For a request the first one is taken unless the other is better by
// half: so weights hold among equals, and idle backends share what there is.
func (s *backendSet) better(now instant, stream bool) int {
	i, j, twice := s.two()
	a, b := s.all[i], s.all[j]
	switch avoidA, avoidB := a.avoided(now), b.avoided(now); {
	case avoidA != avoidB:
		if avoidA {
			return j
		}
		return i
	case stream:
		if b.crowd() < a.crowd() {
			return j
		}
		return i
	}
	busyA, busyB := compared(a, b, twice)
	if 1.5*b.load(now, busyB) < a.load(now, busyA) {
		return j
	}
	return i
}

// compared returns how many requests the backends are to be compared by. The
// heavier one counts as so many servers of the weight of the lighter one, which
// share its requests evenly, and one of them is compared; or the idlest, if both
// that were drawn are its.
func compared(a, b *backend, twice bool) (busyA, busyB float64) {
	busyA, busyB = a.busy(), b.busy()
	weightA, weightB := float64(a.weight.Load()), float64(b.weight.Load())
	switch {
	case weightA > weightB:
		chance := 0.0
		if !twice {
			chance = rand.Float64()
		}
		busyA = math.Floor(busyA*weightB/weightA + chance)
	case weightB > weightA:
		busyB = math.Floor(busyB*weightA/weightB + rand.Float64())
	}
	return busyA, busyB
}

// any reserves the best backend that was not tried: a sound one, or else one that
// is to be tried again, or else one that is avoided.
func (s *backendSet) any(now instant, start int, r *route) (b *backend, open bool) {
	for least := sound; least <= avoided; least++ {
		for range s.all {
			best, lowest := (*backend)(nil), math.Inf(1)
			for i := range s.all {
				b := s.all[(start+i)%len(s.all)]
				if b.gone.Load() || !b.fits(now, r, least) {
					continue
				}
				load := b.crowd()
				if !r.stream {
					load = b.load(now, b.busy()) / float64(b.weight.Load())
				}
				if best == nil || load < lowest {
					best, lowest = b, load
				}
			}
			if best == nil {
				break
			}
			if least == avoided && best.reserve(now) || least < avoided && best.acquire(now) {
				return best, least == avoided
			}
		}
	}
	return nil, false
}

// rendezvous reserves the first of the key's backends that can take the
// request. Weighted rendezvous hashing: the key's order of backends is that of
// -weight / ln(hash); Schindelhauer and Schomaker, 2005.
func (s *backendSet) rendezvous(now instant, r *route) (*backend, bool) {
	for least := r.least(); least <= avoided; least++ {
		skip := make([]bool, len(s.all))
		for range s.all {
			best, most := -1, math.Inf(-1)
			for i, b := range s.all {
				if skip[i] || !b.fits(now, r, least) {
					continue
				}
				u := (float64(hashKey(s.salts[i], keyBytes(r.key))>>11) + 0.5) / (1 << 53)
				if score := -float64(b.weight.Load()) / math.Log(u); score > most {
					best, most = i, score
				}
			}
			if best < 0 {
				break
			}
			if b := s.all[best]; least == avoided && b.reserve(now) || least < avoided && b.acquire(now) {
				return b, least == avoided
			}
			skip[best] = true
		}
	}
	return nil, false
}
