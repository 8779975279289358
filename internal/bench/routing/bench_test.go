// Package bench compares lookups of package routing with those of a well-known
// consistent-hash module. It is a module of its own so that the kit does not
// depend on its peers.
package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/buraksezer/consistent"
	"github.com/weaverkit/weaverkit/routing"
)

type member string

func (m member) String() string { return string(m) }

// identity is the cheapest hash there is: shard keys are hashes already.
type identity struct{}

func (identity) Sum64(b []byte) uint64 {
	if len(b) == 8 {
		return binary.LittleEndian.Uint64(b)
	}
	h := uint64(14695981039346656037) // FNV-1a, for the members' names
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// BenchmarkLookup asks how a lookup by assignment compares with one by
// consistent hashing with bounded loads, for the same number of slices and
// partitions.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{16, 1000, 50_000} {
		replicas := make([]string, max(n/50, 4))
		for i := range replicas {
			replicas[i] = fmt.Sprintf("tcp://10.0.%d.%d:9000", i/256, i%256)
		}
		rng := rand.New(rand.NewPCG(1, 1))
		keys := make([]uint64, 1<<16)
		for i := range keys {
			keys[i] = rng.Uint64()
		}
		b.Run(fmt.Sprintf("slices=%d/table", n), func(b *testing.B) {
			t, err := routing.NewTable(routing.EqualSplit(replicas, n/len(replicas)))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			i, sum := 0, 0
			for b.Loop() {
				sum += len(t.Lookup(keys[i&(1<<16-1)])[0])
				i++
			}
			if sum == 0 {
				b.Fatal("nothing found")
			}
		})
		b.Run(fmt.Sprintf("slices=%d/baseline=consistent", n), func(b *testing.B) {
			var members []consistent.Member
			for _, r := range replicas {
				members = append(members, member(r))
			}
			c := consistent.New(members, consistent.Config{Hasher: identity{}, PartitionCount: n, ReplicationFactor: 20, Load: 1.25})
			b.ReportAllocs()
			i, sum := 0, 0
			var key [8]byte
			for b.Loop() {
				binary.LittleEndian.PutUint64(key[:], keys[i&(1<<16-1)])
				sum += len(c.LocateKey(key[:]).String())
				i++
			}
			if sum == 0 {
				b.Fatal("nothing found")
			}
		})
	}
}
