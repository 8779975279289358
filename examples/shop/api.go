package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// visit is the answer of GET /api/visit.
type visit struct {
	ServedBy    Replica  `json:"served_by"`
	User        string   `json:"user"`
	Products    int      `json:"products"`
	InStock     int      `json:"in_stock"`
	Cart        Basket   `json:"cart"`
	Recommended []string `json:"recommended"`
	Micros      int64    `json:"micros"` // spent answering
}

// apiVisit does what the home page does, for load tests: ?user=NAME goes
// through Catalog, Inventory, Cart (routed by user) and Recommender. All calls
// are idempotent; if one fails, so does the request.
func (s *shop) apiVisit(r *http.Request) (any, error) {
	start := time.Now()
	ctx := r.Context()
	user, err := apiUser(r)
	if err != nil {
		return nil, err
	}
	v := visit{ServedBy: here("main"), User: user}
	all, err := s.catalog.Get().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list products: %w", err)
	}
	v.Products = len(all)
	stocks, err := s.inventory.Get().Check(ctx, idsOf(all))
	if err != nil {
		return nil, fmt.Errorf("check stock: %w", err)
	}
	for _, stock := range stocks {
		if stock.Left > 0 {
			v.InStock++
		}
	}
	if v.Cart, err = s.cart.Get().Get(ctx, user, Contents{}); err != nil {
		return nil, fmt.Errorf("get cart: %w", err)
	}
	if v.Recommended, err = s.recommender.Get().Recommend(ctx, v.Cart.Contents.Products(), 3); err != nil {
		return nil, fmt.Errorf("recommend: %w", err)
	}
	v.Micros = time.Since(start).Microseconds()
	return v, nil
}

// apiCart sets ?product= in ?user='s cart to ?quantity=, 1 without.
func (s *shop) apiCart(r *http.Request) (any, error) {
	user, err := apiUser(r)
	if err != nil {
		return nil, err
	}
	quantity := 1
	if v := r.FormValue("quantity"); v != "" {
		if quantity, err = strconv.Atoi(v); err != nil {
			return nil, badRequest("quantity: want a number")
		}
	}
	product := r.FormValue("product")
	if _, err := s.catalog.Get().Get(r.Context(), []string{product}); err != nil {
		return nil, fmt.Errorf("get product: %w", err)
	}
	basket, err := s.cart.Get().Set(r.Context(), user, Contents{}, product, quantity)
	if err != nil {
		return nil, fmt.Errorf("set cart: %w", err)
	}
	return basket, nil
}

// apiOrders buys what is in ?user='s cart or, with ?product=, one of that. It
// rests on the one method that is never retried.
func (s *shop) apiOrders(r *http.Request) (any, error) {
	user, err := apiUser(r)
	if err != nil {
		return nil, err
	}
	order := Order{ID: rand.Text(), User: user}
	if product := r.FormValue("product"); product != "" {
		basket, err := s.cart.Get().Set(r.Context(), user, Contents{}, product, 1)
		if err != nil {
			return nil, fmt.Errorf("set cart: %w", err)
		}
		order.Cart = basket.Contents
	}
	receipt, err := s.checkout.Get().Place(r.Context(), order)
	if err != nil {
		return nil, fmt.Errorf("place order %s: %w", order.ID, err)
	}
	return receipt, nil
}

// apiReplicas lists one replica of each component, namely those that answered
// just now; of Cart the one that ?user= is routed to.
func (s *shop) apiReplicas(r *http.Request) (any, error) {
	user, err := apiUser(r)
	if err != nil {
		return nil, err
	}
	var replicas []Replica
	for _, answer := range s.askEverybody(r.Context(), user) {
		if answer.Err != nil {
			return nil, answer.Err
		}
		replicas = append(replicas, answer.Replicas...)
	}
	return replicas, nil
}

// A whereabout is a component's answer to where it is.
type whereabout struct {
	Component string // asked
	Replicas  []Replica
	Err       error
	Took      time.Duration
}

// askEverybody asks the components that main refers to, one after the other,
// which replica answers.
func (s *shop) askEverybody(ctx context.Context, user string) []whereabout {
	components := []struct {
		name  string
		where func(context.Context) ([]Replica, error)
	}{
		{"main", func(context.Context) ([]Replica, error) { return []Replica{here("main")}, nil }},
		{"Catalog", s.catalog.Get().Where},
		{"Inventory", s.inventory.Get().Where},
		{"Cart", func(ctx context.Context) ([]Replica, error) { return s.cart.Get().Where(ctx, user) }},
		{"Recommender", s.recommender.Get().Where},
		{"Stats", s.stats.Get().Where},
		{"Checkout", s.checkout.Get().Where},
	}
	answers := make([]whereabout, len(components))
	for i, c := range components {
		start := time.Now()
		replicas, err := c.where(ctx)
		if err != nil {
			err = fmt.Errorf("where is %s: %w", c.name, err)
		}
		answers[i] = whereabout{Component: c.name, Replicas: replicas, Err: err, Took: time.Since(start)}
	}
	return answers
}

func apiUser(r *http.Request) (string, error) {
	user := r.FormValue("user")
	if !validName(user) {
		return "", badRequest("user: want 1 to 64 letters, digits, '-', '_' or '.'")
	}
	return user, nil
}

func idsOf(products []Product) []string {
	ids := make([]string, 0, len(products))
	for _, p := range products {
		ids = append(ids, p.ID)
	}
	return ids
}
