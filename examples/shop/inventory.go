package main

import (
	"context"
	"fmt"

	"github.com/ServiceWeaver/weaver"
)

// Stock is what the warehouse says about a product.
type Stock struct {
	weaver.AutoMarshal
	Product string `json:"product"`
	Left    int    `json:"left"` // pieces
	Days    int    `json:"days"` // until delivery or, with none left, until there are more
}

// Inventory knows what is in the warehouse.
type Inventory interface {
	// Check returns the stock of the products, in their order. A product the
	// warehouse has never seen is a Refusal.
	Check(_ context.Context, products []string) ([]Stock, error)

	// Where returns the replica that answers.
	Where(context.Context) ([]Replica, error)
}

type inventory struct {
	weaver.Implements[Inventory]
	weaver.WithConfig[Faults]
}

func (i *inventory) Check(ctx context.Context, products []string) ([]Stock, error) {
	if err := i.Config().strike(ctx, "Inventory"); err != nil {
		return nil, err
	}
	stocks := make([]Stock, len(products))
	for n, id := range products {
		stock, ok := shelves[id]
		if !ok {
			return nil, Refusal{Reason: fmt.Sprintf("The warehouse has never seen %q.", id)}
		}
		stock.Product = id
		stocks[n] = stock
	}
	return stocks, nil
}

func (i *inventory) Where(context.Context) ([]Replica, error) {
	return []Replica{here("Inventory")}, nil
}
