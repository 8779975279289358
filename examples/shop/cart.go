package main

import (
	"container/list"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/ServiceWeaver/weaver"
	"github.com/ServiceWeaver/weaver/metrics"
)

const (
	maxLines    = 20 // products in a cart
	maxQuantity = 99 // pieces of a product
)

// Line is a product in a cart and how many of it.
type Line struct {
	weaver.AutoMarshal
	Product  string `json:"product"`
	Quantity int    `json:"quantity"`
}

// Contents is what is in a cart. The revision rises by one with every change,
// so that of two copies the newer one can be told.
type Contents struct {
	weaver.AutoMarshal
	Revision int64  `json:"revision"`
	Lines    []Line `json:"lines,omitempty"`
}

// Pieces returns how many pieces of all products are in the cart.
func (c Contents) Pieces() int {
	n := 0
	for _, l := range c.Lines {
		n += l.Quantity
	}
	return n
}

// Quantity returns how many pieces of product are in the cart.
func (c Contents) Quantity(product string) int {
	for _, l := range c.Lines {
		if l.Product == product {
			return l.Quantity
		}
	}
	return 0
}

// Products returns the ids of the products in the cart.
func (c Contents) Products() []string {
	ids := make([]string, len(c.Lines))
	for i, l := range c.Lines {
		ids[i] = l.Product
	}
	return ids
}

// with returns the contents after product's quantity was set; 0 takes it out.
// It leaves c as it is, whose lines others may be reading.
func (c Contents) with(product string, quantity int) (Contents, error) {
	i := slices.IndexFunc(c.Lines, func(l Line) bool { return l.Product == product })
	switch {
	case quantity < 0 || quantity > maxQuantity:
		return c, Refusal{Reason: fmt.Sprintf("We sell 1 to %d pieces of a product.", maxQuantity)}
	case i < 0 && quantity == 0, i >= 0 && c.Lines[i].Quantity == quantity:
		return c, nil
	case i < 0 && len(c.Lines) == maxLines:
		return c, Refusal{Reason: fmt.Sprintf("A cart holds %d different products.", maxLines)}
	}
	lines := slices.Clone(c.Lines)
	switch {
	case i < 0:
		lines = append(lines, Line{Product: product, Quantity: quantity})
	case quantity == 0:
		lines = slices.Delete(lines, i, i+1)
	default:
		lines[i].Quantity = quantity
	}
	return Contents{Revision: c.Revision + 1, Lines: lines}, nil
}

// cleared returns the contents after everything was taken out.
func (c Contents) cleared() Contents {
	if len(c.Lines) == 0 {
		return c
	}
	return Contents{Revision: c.Revision + 1}
}

// How a replica of Cart came by what it answers.
const (
	sourceNew      = "new"      // nobody knew the cart
	sourceFound    = "found"    // it was in this replica's memory
	sourceRestored = "restored" // the caller remembered a newer copy
)

// Basket is the Cart's answer.
type Basket struct {
	weaver.AutoMarshal
	Contents Contents `json:"contents"`
	Source   string   `json:"source"` // new, found or restored
	Replica  Replica  `json:"replica"`
}

// Cart keeps every user's cart in the memory of the replica that the user is
// routed to, and nowhere else. As routing is best effort and replicas die, the
// caller passes the copy it remembers (here: from the browser's cookie) with
// each call; the newer of the two goes on. All methods are idempotent.
type Cart interface {
	// Get returns the user's cart.
	Get(_ context.Context, user string, remembered Contents) (Basket, error)

	// Set sets the quantity of a product in the user's cart, 0 to take it out.
	// Too many pieces or products are a Refusal.
	Set(_ context.Context, user string, remembered Contents, product string, quantity int) (Basket, error)

	// Clear takes everything out of the user's cart.
	Clear(_ context.Context, user string, remembered Contents) (Basket, error)

	// Where returns the replica that the user is routed to.
	Where(_ context.Context, user string) ([]Replica, error)
}

// cartRouter routes every call by user.
type cartRouter struct{}

func (cartRouter) Get(_ context.Context, user string, _ Contents) string { return user }
func (cartRouter) Set(_ context.Context, user string, _ Contents, _ string, _ int) string {
	return user
}
func (cartRouter) Clear(_ context.Context, user string, _ Contents) string { return user }
func (cartRouter) Where(_ context.Context, user string) string             { return user }

type cartConfig struct {
	Faults

	// Capacity is the number of carts a replica keeps; beyond it the one not
	// touched for longest goes. 0 means 10,000.
	Capacity int `toml:"capacity"`
}

func (c *cartConfig) Validate() error {
	if c.Capacity < 0 {
		return fmt.Errorf("capacity = %d: want a positive number, or 0 for 10,000", c.Capacity)
	}
	return c.Faults.Validate()
}

type cartLabels struct {
	Source string
}

var (
	cartCalls     = metrics.NewCounterMap[cartLabels]("shop_cart_calls", "Calls of Cart, by where the cart came from")
	cartEvictions = metrics.NewCounter("shop_cart_evictions", "Carts dropped to make room")
)

type cart struct {
	weaver.Implements[Cart]
	weaver.WithConfig[cartConfig]
	weaver.WithRouter[cartRouter]

	mu     sync.Mutex // guards the following
	byUser map[string]*list.Element
	recent *list.List // of *userCart, the last touched first
}

type userCart struct {
	user     string
	contents Contents
}

func (c *cart) Init(context.Context) error {
	if c.Config().Capacity == 0 {
		c.Config().Capacity = 10_000
	}
	c.byUser = map[string]*list.Element{}
	c.recent = list.New()
	return nil
}

func (c *cart) Get(ctx context.Context, user string, remembered Contents) (Basket, error) {
	return c.update(ctx, user, remembered, func(now Contents) (Contents, error) { return now, nil })
}

func (c *cart) Set(ctx context.Context, user string, remembered Contents, product string, quantity int) (Basket, error) {
	return c.update(ctx, user, remembered, func(now Contents) (Contents, error) { return now.with(product, quantity) })
}

func (c *cart) Clear(ctx context.Context, user string, remembered Contents) (Basket, error) {
	return c.update(ctx, user, remembered, func(now Contents) (Contents, error) { return now.cleared(), nil })
}

func (c *cart) Where(context.Context, string) ([]Replica, error) {
	return []Replica{here("Cart")}, nil
}

// update finds the newest contents of the user's cart, changes them and keeps
// the result.
func (c *cart) update(ctx context.Context, user string, remembered Contents, change func(Contents) (Contents, error)) (Basket, error) {
	if err := c.Config().strike(ctx, "Cart"); err != nil {
		return Basket{}, err
	}
	contents, source, err := c.keep(user, remembered, change)
	if err != nil {
		return Basket{}, err
	}
	cartCalls.Get(cartLabels{Source: source}).Inc()
	return Basket{Contents: contents, Source: source, Replica: here("Cart")}, nil
}

func (c *cart) keep(user string, remembered Contents, change func(Contents) (Contents, error)) (_ Contents, source string, _ error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	e, ok := c.byUser[user]
	now, source := remembered, sourceRestored
	if ok && e.Value.(*userCart).contents.Revision >= remembered.Revision {
		now, source = e.Value.(*userCart).contents, sourceFound
	} else if !ok && remembered.Revision == 0 {
		source = sourceNew
	}
	now, err := change(now)
	if err != nil {
		return Contents{}, "", err
	}

	if ok {
		e.Value.(*userCart).contents = now
		c.recent.MoveToFront(e)
		return now, source, nil
	}
	if c.recent.Len() == c.Config().Capacity {
		oldest := c.recent.Remove(c.recent.Back()).(*userCart)
		delete(c.byUser, oldest.user)
		cartEvictions.Inc()
	}
	c.byUser[user] = c.recent.PushFront(&userCart{user: user, contents: now})
	return now, source, nil
}
