package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/ServiceWeaver/weaver"
)

// Recommender knows what goes with what.
type Recommender interface {
	// Recommend returns up to n products, by id, that go with those in the cart
	// and are not in it, the best match first.
	Recommend(_ context.Context, cart []string, n int) ([]string, error)

	// Where returns the replica that answers.
	Where(context.Context) ([]Replica, error)
}

type recommender struct {
	weaver.Implements[Recommender]
	weaver.WithConfig[Faults]
	catalog weaver.Ref[Catalog]
}

func (r *recommender) Recommend(ctx context.Context, cart []string, n int) ([]string, error) {
	if err := r.Config().strike(ctx, "Recommender"); err != nil {
		return nil, err
	}
	all, err := r.catalog.Get().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list products: %w", err)
	}
	return match(all, cart, n), nil
}

func (r *recommender) Where(context.Context) ([]Replica, error) {
	return []Replica{here("Recommender")}, nil
}

// match ranks the products not in the cart by the tags they share with those in
// it, each tag as often as the cart has it; equals keep the catalog's order.
func match(all []Product, cart []string, n int) []string {
	weight := map[string]int{}
	for _, p := range all {
		if slices.Contains(cart, p.ID) {
			for _, tag := range p.Tags {
				weight[tag]++
			}
		}
	}
	score := func(p Product) (s int) {
		for _, tag := range p.Tags {
			s += weight[tag]
		}
		return s
	}
	rest := slices.DeleteFunc(slices.Clone(all), func(p Product) bool { return slices.Contains(cart, p.ID) })
	slices.SortStableFunc(rest, func(a, b Product) int { return cmp.Compare(score(b), score(a)) })
	ids := make([]string, 0, max(n, 0))
	for _, p := range rest[:min(max(n, 0), len(rest))] {
		ids = append(ids, p.ID)
	}
	return ids
}
