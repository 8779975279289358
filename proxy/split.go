package proxy

import (
	"fmt"
	"math"
)

// A Share is the part of the traffic that a pool gets, in 1/10,000.
type Share struct {
	Pool   string
	Weight int
}

// Whole is the sum of all shares.
const Whole = 10_000

// A split decides which pool a request goes to. It is immutable.
type split struct {
	pools []*Pool  // newest first
	order []uint16 // of pools, one period of it

	// A sticky client goes to the first pool i, newest first, for which a hash
	// of its key and the pool is below odds[i]: the share of i among what the
	// newer ones leave. Raising the share of the newest moves clients to it
	// from all others in proportion, and nobody between the others.
	odds  []uint64
	salts []uint64
}

// check refuses shares that are no split.
func checkSplit(shares []Share) error {
	sum := 0
	seen := map[string]bool{}
	for _, s := range shares {
		switch {
		case s.Pool == "":
			return fmt.Errorf("a share of %d has no pool", s.Weight)
		case seen[s.Pool]:
			return fmt.Errorf("pool %s has two shares", s.Pool)
		case s.Weight < 0 || s.Weight > Whole:
			return fmt.Errorf("the share of pool %s is %d: it must be between 0 and %d", s.Pool, s.Weight, Whole)
		}
		seen[s.Pool] = true
		sum += s.Weight
	}
	if sum != Whole {
		return fmt.Errorf("the shares sum to %d: they must sum to %d", sum, Whole)
	}
	return nil
}

func newSplit(shares []Share, pool func(string) *Pool) *split {
	s := &split{}
	weights := make([]int, len(shares))
	left := Whole
	for i, share := range shares {
		s.pools = append(s.pools, pool(share.Pool))
		s.salts = append(s.salts, hashKey(0, share.Pool))
		weights[i] = share.Weight
		var odds uint64
		switch {
		case share.Weight == 0:
		case share.Weight == left:
			odds = math.MaxUint64
		default:
			odds = uint64(float64(share.Weight) / float64(left) * math.MaxUint64)
		}
		s.odds = append(s.odds, odds)
		left -= share.Weight
	}
	s.order = interleave(weights)
	return s
}

// at returns the pool of the n-th request.
func (s *split) at(n uint64) *Pool {
	if len(s.order) == 1 {
		return s.pools[s.order[0]]
	}
	return s.pools[s.order[n%uint64(len(s.order))]]
}

// has reports whether the pool has a share.
func (s *split) has(pool *Pool) bool {
	for i, p := range s.pools {
		if p == pool {
			return s.odds[i] > 0
		}
	}
	return false
}

// sticky returns the pool of a client.
func (s *split) sticky(key uint64) *Pool {
	for i, odds := range s.odds {
		if odds == math.MaxUint64 {
			return s.pools[i]
		}
		if hashKey(s.salts[i], keyBytes(key)) < odds {
			return s.pools[i]
		}
	}
	panic("unreachable: the last share with a weight takes all that is left")
}

// interleave returns one period of an order in which each weight has its share
// and is spread as evenly as can be: after n of them, the count of a weight
// differs from n times its share by less than 1. It is Tijdeman's algorithm (The
// chairman assignment problem, 1980): of those whose count would not exceed
// their share by 1, the one whose next turn must come soonest.
func interleave(weights []int) []uint16 {
	divisor, positive := 0, 0
	for _, w := range weights {
		divisor = gcd(divisor, w)
		if w > 0 {
			positive++
		}
	}
	period := Whole / divisor
	order := make([]uint16, period)
	counts := make([]int, len(weights))
	// Shares are w/Whole; slack is Tijdeman's 1/(2k-2), so that no prefix is
	// off by more than 1 - slack.
	slack := 0.5
	if positive > 1 {
		slack = 1 / (2*float64(positive) - 2)
	}
	for n := range order {
		best, soonest := -1, math.Inf(1)
		for i, w := range weights {
			if w == 0 {
				continue
			}
			share := float64(w) / Whole
			ahead := share*float64(n+1) - float64(counts[i])
			if ahead < slack-1e-9 {
				continue // it would be too far ahead
			}
			// Its turn must come before it falls behind by 1 - slack.
			if deadline := (1 - slack - ahead) / share; deadline < soonest {
				best, soonest = i, deadline
			}
		}
		order[n] = uint16(best)
		counts[best]++
	}
	return order
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func keyBytes(k uint64) string {
	var b [8]byte
	for i := range b {
		b[i] = byte(k >> (8 * i))
	}
	return string(b[:])
}
