package main

import (
	"context"
	"sync"

	"github.com/ServiceWeaver/weaver"
)

// Report is what one replica of Stats has counted since it started.
type Report struct {
	weaver.AutoMarshal
	Orders  int     `json:"orders"`
	Pieces  int     `json:"pieces"`
	Revenue Money   `json:"revenue_cents"`
	Replica Replica `json:"replica"`
}

// Stats counts orders. Each replica counts those it is told of.
type Stats interface {
	// Record counts an order, once: told again of an order among the last few
	// thousand, a replica ignores it.
	Record(_ context.Context, order string, pieces int, total Money) error

	// Report returns the replica's counts.
	Report(context.Context) (Report, error)

	// Where returns the replica that answers.
	Where(context.Context) ([]Replica, error)
}

// ordersKept is how many orders a replica of Stats recognizes.
const ordersKept = 4096

type stats struct {
	weaver.Implements[Stats]
	weaver.WithConfig[Faults]

	mu     sync.Mutex // guards the following
	report Report
	seen   map[string]bool    // the orders in last
	last   [ordersKept]string // a ring; report.Orders % ordersKept is next
}

func (s *stats) Init(context.Context) error {
	s.seen = map[string]bool{}
	return nil
}

func (s *stats) Record(ctx context.Context, order string, pieces int, total Money) error {
	if err := s.Config().strike(ctx, "Stats"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[order] {
		return nil
	}
	next := &s.last[s.report.Orders%ordersKept]
	delete(s.seen, *next)
	*next = order
	s.seen[order] = true
	s.report.Orders++
	s.report.Pieces += pieces
	s.report.Revenue += total
	return nil
}

func (s *stats) Report(ctx context.Context) (Report, error) {
	if err := s.Config().strike(ctx, "Stats"); err != nil {
		return Report{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	report := s.report
	report.Replica = here("Stats")
	return report, nil
}

func (s *stats) Where(context.Context) ([]Replica, error) {
	return []Replica{here("Stats")}, nil
}
