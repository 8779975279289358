package main

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/weaverkit/weaverkit/rollout"
)

// The meter looks at the counts every so often, and keeps what it saw for long
// enough to tell what the last seconds were like.
const (
	meterPeriod = 500 * time.Millisecond
	meterSpan   = 5 * time.Second
)

// A meter measures the traffic of the last seconds.
type meter struct {
	counts  func() map[place]rollout.Traffic
	weights func() uint64 // their revision, if they are applied

	mu      sync.Mutex // guards the following
	samples []reading  // oldest first
}

type reading struct {
	at      time.Time
	weights uint64
	counts  map[place]rollout.Traffic
}

func (m *meter) run(ctx context.Context) {
	tick := time.NewTicker(meterPeriod)
	defer tick.Stop()
	for {
		s := reading{time.Now(), m.weights(), m.counts()}
		m.mu.Lock()
		if n := len(m.samples); n > 0 && m.samples[n-1].weights != s.weights {
			m.samples = nil // a share of both would be neither
		}
		m.samples = append(m.samples, s)
		if n := len(m.samples) - 1 - int(meterSpan/meterPeriod); n > 0 {
			m.samples = m.samples[n:]
		}
		m.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// last returns the traffic of the last seconds, and how long that was.
func (m *meter) last() (map[place]rollout.Traffic, time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.samples) < 2 {
		return nil, 0
	}
	first, last := m.samples[0], m.samples[len(m.samples)-1]
	traffic := maps.Clone(last.counts)
	for at, t := range traffic {
		traffic[at] = t.Since(first.counts[at])
	}
	return traffic, last.at.Sub(first.at)
}
