package main

import (
	"context"
	"fmt"

	"github.com/ServiceWeaver/weaver"
)

// Money is an amount in euro cents.
type Money int64

func (m Money) String() string { return fmt.Sprintf("€%d.%02d", m/100, m%100) }

// Product is one thing the shop sells.
type Product struct {
	weaver.AutoMarshal
	ID    string   `json:"id"`
	Name  string   `json:"name"`
	Text  string   `json:"text"` // a sentence or two
	Price Money    `json:"price_cents"`
	Tags  []string `json:"tags"` // what makes products go together
	Cloth Cloth    `json:"-"`
}

// Cloth says how to draw a product: a weave and the colours of its threads,
// both repeated over the whole cloth.
type Cloth struct {
	weaver.AutoMarshal
	Weave string   // a key of weaves
	Warp  []string // colours of the threads that run down
	Weft  []string // colours of the threads that run across
}

// Catalog knows what the shop sells.
type Catalog interface {
	// List returns every product, in the order to show them.
	List(context.Context) ([]Product, error)

	// Get returns the products with the ids, in their order. An id without a
	// product is a Refusal.
	Get(_ context.Context, ids []string) ([]Product, error)

	// Where returns the replica that answers.
	Where(context.Context) ([]Replica, error)
}

type catalog struct {
	weaver.Implements[Catalog]
	weaver.WithConfig[Faults]
	byID map[string]Product
}

func (c *catalog) Init(context.Context) error {
	c.byID = make(map[string]Product, len(products))
	for _, p := range products {
		c.byID[p.ID] = p
	}
	return nil
}

func (c *catalog) List(ctx context.Context) ([]Product, error) {
	if err := c.Config().strike(ctx, "Catalog"); err != nil {
		return nil, err
	}
	return products, nil
}

func (c *catalog) Get(ctx context.Context, ids []string) ([]Product, error) {
	if err := c.Config().strike(ctx, "Catalog"); err != nil {
		return nil, err
	}
	found := make([]Product, 0, len(ids))
	for _, id := range ids {
		p, ok := c.byID[id]
		if !ok {
			return nil, Refusal{Reason: fmt.Sprintf("There is no product %q.", id)}
		}
		found = append(found, p)
	}
	return found, nil
}

func (c *catalog) Where(context.Context) ([]Replica, error) {
	return []Replica{here("Catalog")}, nil
}

// Refusal is a no that is nobody's fault: the request was understood, and
// trying again will not help. It keeps its type across processes.
type Refusal struct {
	weaver.AutoMarshal
	Reason string // a sentence for the customer
}

func (r Refusal) Error() string { return r.Reason }
