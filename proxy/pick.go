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
	mean  float64  // of weights
	salts []uint64 // for Hash
}

func newBackendSet(all []*backend) *backendSet {
	s := &backendSet{all: all}
	weights := make([]int64, len(all))
	var sum int64
	uneven := false
	for i, b := range all {
		weights[i] = b.weight.Load()
		uneven = uneven || weights[i] != weights[0]
		sum += weights[i]
		s.salts = append(s.salts, hashKey(0, b.addr))
	}
	s.mean = float64(sum) / float64(max(len(all), 1))
	if uneven {
		sum = 0
		for _, w := range weights {
			sum += w
			s.sums = append(s.sums, sum)
		}
	}
	return s
}

// random returns a backend, each as often as its weight says.
func (s *backendSet) random() int {
	if s.sums == nil {
		return rand.IntN(len(s.all))
	}
	n := rand.Int64N(s.sums[len(s.sums)-1])
	return sort.Search(len(s.sums), func(i int) bool { return n < s.sums[i] })
}

// pick reserves a backend for a request, other than those that it was tried on.
// open is set if all are avoided, and it is one of those. It returns nil if there
// is none but those that were tried.
func (p *Pool) pick(now instant, r *route) (b *backend, open bool) {
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
		return s.rendezvous(now, r.key, r.tried)
	default:
		first = s.better(now, r.stream)
	}
	if b := s.all[first]; !slices.Contains(r.tried, b) && b.healthy.Load() && b.acquire(now) {
		return b, false
	}
	return s.any(now, first, r)
}

// turn returns the backend of the n-th turn: by weight if weights differ.
func (s *backendSet) turn(n uint64) int {
	if s.sums == nil {
		return int(n % uint64(len(s.all)))
	}
	// A golden-ratio sequence visits ranges in proportion to their length, and
	// evenly in time.
	x := float64(n*0x9e3779b97f4a7c15>>11) / (1 << 53)
	at := int64(x * float64(s.sums[len(s.sums)-1]))
	return sort.Search(len(s.sums), func(i int) bool { return at < s.sums[i] })
}

// better returns the better of two random backends: the less crowded one for a
// stream. For a request the first one is taken, as often as its weight says,
// unless the other is better by half: so weights hold among equals, and idle
// backends share what there is.
func (s *backendSet) better(now instant, stream bool) int {
	i := s.random()
	j := s.random()
	for range 4 {
		if j != i {
			break
		}
		j = s.random()
	}
	if i == j {
		j = (i + 1) % len(s.all)
	}
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
	case 1.5*b.load(now, s.mean) < a.load(now, s.mean):
		return j
	}
	return i
}

// any reserves the best backend that was not tried; of those that are avoided
// if there is no other.
func (s *backendSet) any(now instant, start int, r *route) (b *backend, open bool) {
	for _, open := range []bool{false, true} {
		for range s.all {
			best, least := (*backend)(nil), math.Inf(1)
			for i := range s.all {
				b := s.all[(start+i)%len(s.all)]
				if slices.Contains(r.tried, b) || b.gone.Load() || !open && b.avoided(now) {
					continue
				}
				load := b.crowd()
				if !r.stream {
					load = b.load(now, s.mean)
				}
				if best == nil || load < least {
					best, least = b, load
				}
			}
			if best == nil {
				break
			}
			if open && best.reserve(now) || !open && best.acquire(now) {
				return best, open
			}
		}
	}
	return nil, false
}

// rendezvous reserves the first of the key's backends that can take the
// request. Weighted rendezvous hashing: the key's order of backends is that of
// -weight / ln(hash); Schindelhauer and Schomaker, 2005.
func (s *backendSet) rendezvous(now instant, key uint64, tried []*backend) (*backend, bool) {
	for _, open := range []bool{false, true} {
		skip := make([]bool, len(s.all))
		for range s.all {
			best, most := -1, math.Inf(-1)
			for i, b := range s.all {
				if skip[i] || slices.Contains(tried, b) || !open && b.avoided(now) {
					continue
				}
				u := (float64(hashKey(s.salts[i], keyBytes(key))>>11) + 0.5) / (1 << 53)
				if score := -float64(b.weight.Load()) / math.Log(u); score > most {
					best, most = i, score
				}
			}
			if best < 0 {
				break
			}
			if b := s.all[best]; open && b.reserve(now) || !open && b.acquire(now) {
				return b, open
			}
			skip[best] = true
		}
	}
	return nil, false
}
