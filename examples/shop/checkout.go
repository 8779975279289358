package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/ServiceWeaver/weaver"
)

const (
	shipping         Money = 4_90
	freeShippingFrom Money = 100_00
)

// Order is the wish to buy what is in a cart.
type Order struct {
	weaver.AutoMarshal
	ID   string
	User string
	Cart Contents // as the caller remembers it
}

// Receipt is an order that went through.
type Receipt struct {
	weaver.AutoMarshal
	Order         string    `json:"order"`
	Pieces        int       `json:"pieces"`
	Items         Money     `json:"items_cents"`
	Shipping      Money     `json:"shipping_cents"`
	Days          int       `json:"days"` // until delivery
	Authorization string    `json:"authorization"`
	Cart          Contents  `json:"-"`        // what is left in it
	Replicas      []Replica `json:"replicas"` // that had a hand in it
}

// Total returns what was paid.
func (r Receipt) Total() Money { return r.Items + r.Shipping }

// Checkout turns carts into orders.
type Checkout interface {
	// Place buys what is in the cart. An empty cart, a product that is sold out
	// and a declined payment are a Refusal, and leave the cart as it was.
	//
	// Calling Place twice buys twice, so it is never retried: after a
	// weaver.RemoteCallError nobody knows whether the order went through.
	Place(context.Context, Order) (Receipt, error)

	// Where returns the replica that answers and that of Payment behind it.
	Where(context.Context) ([]Replica, error)
}

var _ weaver.NotRetriable = Checkout.Place

type checkout struct {
	weaver.Implements[Checkout]
	weaver.WithConfig[Faults]

	catalog   weaver.Ref[Catalog]
	inventory weaver.Ref[Inventory]
	cart      weaver.Ref[Cart]
	payment   weaver.Ref[Payment]
	stats     weaver.Ref[Stats]
}

func (c *checkout) Place(ctx context.Context, order Order) (Receipt, error) {
	if err := c.Config().strike(ctx, "Checkout"); err != nil {
		return Receipt{}, err
	}
	basket, err := c.cart.Get().Get(ctx, order.User, order.Cart)
	if err != nil {
		return Receipt{}, fmt.Errorf("get cart: %w", err)
	}
	contents := basket.Contents
	if len(contents.Lines) == 0 {
		return Receipt{}, Refusal{Reason: "There is nothing in the cart."}
	}
	found, err := c.catalog.Get().Get(ctx, contents.Products())
	if err != nil {
		return Receipt{}, fmt.Errorf("get products: %w", err)
	}
	stocks, err := c.inventory.Get().Check(ctx, contents.Products())
	if err != nil {
		return Receipt{}, fmt.Errorf("check stock: %w", err)
	}

	receipt, err := price(contents.Lines, found, stocks)
	if err != nil {
		return Receipt{}, err
	}
	receipt.Order = order.ID
	charge, err := c.payment.Get().Charge(ctx, order.ID, receipt.Total())
	if err != nil {
		return Receipt{}, fmt.Errorf("charge order %s: %w", order.ID, err)
	}
	receipt.Authorization = charge.Authorization
	receipt.Replicas = []Replica{here("Checkout"), charge.Replica, basket.Replica}
	receipt.Cart = contents.cleared()

	// The order is placed; what fails from here on must not fail it.
	if _, err := c.cart.Get().Clear(ctx, order.User, contents); err != nil {
		c.Logger(ctx).Warn("Cart not cleared after its order", "order", order.ID, "err", err)
	}
	if err := c.stats.Get().Record(ctx, order.ID, receipt.Pieces, receipt.Total()); err != nil {
		c.Logger(ctx).Warn("Order not counted", "order", order.ID, "err", err)
	}
	return receipt, nil
}

func (c *checkout) Where(ctx context.Context) ([]Replica, error) {
	behind, err := c.payment.Get().Where(ctx)
	if err != nil {
		return nil, fmt.Errorf("where is payment: %w", err)
	}
	return slices.Concat([]Replica{here("Checkout")}, behind), nil
}

// price adds up what the lines cost, given their products and stock in the
// same order.
func price(lines []Line, products []Product, stocks []Stock) (Receipt, error) {
	var r Receipt
	for i, line := range lines {
		if stocks[i].Left < line.Quantity {
			return Receipt{}, Refusal{Reason: fmt.Sprintf("%s: %d left.", products[i].Name, stocks[i].Left)}
		}
		r.Pieces += line.Quantity
		r.Items += products[i].Price * Money(line.Quantity)
		r.Days = max(r.Days, stocks[i].Days)
	}
	r.Shipping = shippingFor(r.Items)
	return r, nil
}

func shippingFor(items Money) Money {
	if items >= freeShippingFrom {
		return 0
	}
	return shipping
}
