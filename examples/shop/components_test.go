package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ServiceWeaver/weaver/weavertest"
)

const configPrefix = "github.com/weaverkit/weaverkit/examples/shop/"

// everywhere runs body in one process without and with remote calls (which
// are made twice if they may be retried), and with each component in two
// processes of its own.
func everywhere(t *testing.T, body any) {
	for _, runner := range weavertest.AllRunners() {
		runner.Test(t, body)
	}
}

// inProcess runs body in one process with the configuration.
func inProcess(t *testing.T, config string, body any, fakes ...weavertest.FakeComponent) {
	runner := weavertest.Local
	runner.Config = "[single]\nlisteners.shop = { address = \"localhost:0\" }\n" + config
	runner.Fakes = fakes
	runner.Test(t, body)
}

func checkRefused(t *testing.T, err error, word string) {
	t.Helper()
	var refusal Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("got error %v, want a Refusal", err)
	}
	if !strings.Contains(refusal.Reason, word) {
		t.Errorf("refused with %q, want it to mention %q", refusal.Reason, word)
	}
}

func checkWhere(t *testing.T, got []Replica, err error, want ...string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range got {
		names = append(names, r.Component)
		if r.PID == 0 || r.Weavelet == "" || r.Version != "v1" {
			t.Errorf("incomplete replica %+v", r)
		}
	}
	if !slices.Equal(names, want) {
		t.Errorf("replicas of %q, want %q", names, want)
	}
}

func TestCatalog(t *testing.T) {
	everywhere(t, func(t *testing.T, c Catalog) {
		ctx := t.Context()
		all, err := c.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != len(products) {
			t.Fatalf("listed %d products, want %d", len(all), len(products))
		}
		for i, p := range all {
			if p.ID != products[i].ID || p.Price != products[i].Price || !slices.Equal(p.Cloth.Warp, products[i].Cloth.Warp) {
				t.Errorf("product %d came as %+v", i, p)
			}
		}
		two, err := c.Get(ctx, []string{"denim-tote", "tartan-throw"})
		if err != nil {
			t.Fatal(err)
		}
		if len(two) != 2 || two[0].Name != "Denim tote" || two[1].Name != "Tartan throw" {
			t.Errorf("got %+v", two)
		}
		_, err = c.Get(ctx, []string{"denim-tote", "anvil"})
		checkRefused(t, err, "anvil")
		where, err := c.Where(ctx)
		checkWhere(t, where, err, "Catalog")
	})
}

func TestInventory(t *testing.T) {
	everywhere(t, func(t *testing.T, i Inventory) {
		ctx := t.Context()
		stocks, err := i.Check(ctx, idsOf(products)) // so each product has a shelf
		if err != nil {
			t.Fatal(err)
		}
		for n, s := range stocks {
			if s.Product != products[n].ID || s.Days == 0 {
				t.Errorf("stock %d is %+v", n, s)
			}
		}
		_, err = i.Check(ctx, []string{"anvil"})
		checkRefused(t, err, "anvil")
		where, err := i.Where(ctx)
		checkWhere(t, where, err, "Inventory")
	})
}

// Without a deployer that assigns users to replicas, as in the last of the
// runners, every call may reach another replica: the remembered copy must do.
func TestCart(t *testing.T) {
	everywhere(t, func(t *testing.T, c Cart) {
		ctx := t.Context()
		var now Contents
		set := func(product string, quantity int) {
			t.Helper()
			basket, err := c.Set(ctx, "lena", now, product, quantity)
			if err != nil {
				t.Fatal(err)
			}
			now = basket.Contents
		}
		set("denim-tote", 2)
		set("tartan-throw", 1)
		set("denim-tote", 3)
		set("denim-tote", 3) // changes nothing
		set("satin-cushion", 0)
		for range 5 {
			basket, err := c.Get(ctx, "lena", now)
			if err != nil {
				t.Fatal(err)
			}
			if got := formatContents(basket.Contents); got != "3|denim-tote:3|tartan-throw:1" {
				t.Fatalf("cart is %s", got)
			}
		}
		set("denim-tote", 0)
		if got := formatContents(now); got != "4|tartan-throw:1" {
			t.Fatalf("cart is %s", got)
		}
		basket, err := c.Clear(ctx, "lena", now)
		if err != nil {
			t.Fatal(err)
		}
		if got := formatContents(basket.Contents); got != "5" {
			t.Fatalf("cleared cart is %s", got)
		}
		if basket, err = c.Get(ctx, "ole", Contents{}); err != nil || len(basket.Contents.Lines) != 0 {
			t.Fatalf("another's cart is %+v, %v", basket, err)
		}
		_, err = c.Set(ctx, "lena", now, "denim-tote", maxQuantity+1)
		checkRefused(t, err, "99")
		_, err = c.Set(ctx, "lena", now, "denim-tote", -1)
		checkRefused(t, err, "99")
		where, err := c.Where(ctx, "lena")
		checkWhere(t, where, err, "Cart")
	})
}

func TestCartSource(t *testing.T) {
	inProcess(t, "", func(t *testing.T, c Cart) {
		at := func(revision int64) Contents {
			return Contents{Revision: revision, Lines: []Line{{Product: "denim-tote", Quantity: int(revision)}}}
		}
		for _, step := range []struct {
			user       string
			remembered Contents
			source     string
			revision   int64
		}{
			{"a", Contents{}, sourceNew, 0},
			{"a", Contents{}, sourceFound, 0},
			{"a", at(4), sourceRestored, 4},
			{"a", at(4), sourceFound, 4},
			{"a", at(3), sourceFound, 4}, // an older copy loses
			{"b", at(2), sourceRestored, 2},
		} {
			b, err := c.Get(t.Context(), step.user, step.remembered)
			if err != nil {
				t.Fatal(err)
			}
			if b.Source != step.source || b.Contents.Revision != step.revision {
				t.Errorf("%+v: got %s, revision %d", step, b.Source, b.Contents.Revision)
			}
		}
	})
}

func TestCartCapacity(t *testing.T) {
	config := fmt.Sprintf("[%q]\ncapacity = 2", configPrefix+"Cart")
	inProcess(t, config, func(t *testing.T, c *cart) {
		get := func(user, want string) {
			t.Helper()
			b, err := c.Get(t.Context(), user, Contents{})
			if err != nil {
				t.Fatal(err)
			}
			if b.Source != want {
				t.Errorf("cart of %s is %s, want %s", user, b.Source, want)
			}
		}
		get("a", sourceNew)
		get("b", sourceNew)
		get("a", sourceFound)
		get("c", sourceNew) // b goes, touched before a
		get("a", sourceFound)
		get("b", sourceNew)
		if len(c.byUser) != 2 || c.recent.Len() != 2 {
			t.Errorf("%d and %d carts kept, want 2", len(c.byUser), c.recent.Len())
		}
	})
}

func TestCartLines(t *testing.T) {
	var c Contents
	for i := range maxLines {
		var err error
		if c, err = c.with(fmt.Sprint("product-", i), 1); err != nil {
			t.Fatal(err)
		}
	}
	before := formatContents(c)
	_, err := c.with("one-more", 1)
	checkRefused(t, err, "20")
	next, err := c.with("product-3", 7)
	if err != nil || next.Quantity("product-3") != 7 || next.Pieces() != maxLines+6 || next.Revision != c.Revision+1 {
		t.Errorf("got %+v, %v", next, err)
	}
	if after := formatContents(c); after != before {
		t.Errorf("with changed its receiver from %s to %s", before, after)
	}
}

func TestPayment(t *testing.T) {
	everywhere(t, func(t *testing.T, p Payment) {
		ctx := t.Context()
		first, err := p.Charge(ctx, "order-1", creditLimit)
		if err != nil {
			t.Fatal(err)
		}
		again, err := p.Charge(ctx, "order-1", creditLimit)
		if err != nil || again.Authorization != first.Authorization {
			t.Errorf("charged again as %+v, %v; want authorization %s", again, err, first.Authorization)
		}
		other, err := p.Charge(ctx, "order-2", 1)
		if err != nil || other.Authorization == first.Authorization {
			t.Errorf("another order charged as %+v, %v", other, err)
		}
		_, err = p.Charge(ctx, "order-3", creditLimit+1)
		checkRefused(t, err, "declined")
		where, err := p.Where(ctx)
		checkWhere(t, where, err, "Payment")
	})
}

func TestCheckout(t *testing.T) {
	everywhere(t, func(t *testing.T, c Checkout) {
		ctx := t.Context()
		place := func(user string, lines ...Line) (Receipt, error) {
			return c.Place(ctx, Order{ID: "order-of-" + user, User: user, Cart: Contents{Revision: 7, Lines: lines}})
		}
		_, err := place("nils")
		checkRefused(t, err, "nothing in the cart")
		_, err = place("sven", Line{Product: "diamond-rug", Quantity: 1})
		checkRefused(t, err, "Diamond rug")
		_, err = place("lena", Line{Product: "waffle-towel", Quantity: 60}, Line{Product: "striped-apron", Quantity: 41})
		checkRefused(t, err, "declined")
		_, err = place("olga", Line{Product: "anvil", Quantity: 1})
		checkRefused(t, err, "anvil")

		receipt, err := place("ole", Line{Product: "denim-tote", Quantity: 2}, Line{Product: "tartan-throw", Quantity: 1})
		if err != nil {
			t.Fatal(err)
		}
		if receipt.Order != "order-of-ole" || receipt.Pieces != 3 || receipt.Items != 13700 || receipt.Shipping != 0 || receipt.Total() != 13700 || receipt.Days != 3 {
			t.Errorf("receipt %+v", receipt)
		}
		if receipt.Cart.Revision != 8 || len(receipt.Cart.Lines) != 0 {
			t.Errorf("cart left at %+v, want empty at revision 8", receipt.Cart)
		}
		checkWhere(t, receipt.Replicas, nil, "Checkout", "Payment", "Cart")
		where, err := c.Where(ctx)
		checkWhere(t, where, err, "Checkout", "Payment")
	})
}

// What fails after the payment must not fail the order.
func TestCheckoutAfterPayment(t *testing.T) {
	inProcess(t, "", func(t *testing.T, c Checkout) {
		cart := Contents{Revision: 1, Lines: []Line{{Product: "gingham-towel", Quantity: 1}}}
		receipt, err := c.Place(t.Context(), Order{ID: "order-1", User: "lena", Cart: cart})
		if err != nil {
			t.Fatal(err)
		}
		if receipt.Total() != 1400+shipping {
			t.Errorf("paid %v", receipt.Total())
		}
	}, weavertest.Fake[Stats](brokenStats{}), weavertest.Fake[Cart](forgetfulCart{}))
}

var errBroken = errors.New("broken")

type brokenStats struct{ Stats }

func (brokenStats) Record(context.Context, string, int, Money) error { return errBroken }

// forgetfulCart answers with what the caller remembers and clears nothing.
type forgetfulCart struct{ Cart }

func (forgetfulCart) Get(_ context.Context, _ string, remembered Contents) (Basket, error) {
	return Basket{Contents: remembered}, nil
}

func (forgetfulCart) Clear(context.Context, string, Contents) (Basket, error) {
	return Basket{}, errBroken
}

func TestRecommender(t *testing.T) {
	everywhere(t, func(t *testing.T, r Recommender) {
		ctx := t.Context()
		ids, err := r.Recommend(ctx, []string{"denim-tote"}, 2)
		if err != nil {
			t.Fatal(err)
		}
		// The towel is blue and of cotton too; the scarf is to wear, at least.
		if want := []string{"gingham-towel", "houndstooth-scarf"}; !slices.Equal(ids, want) {
			t.Errorf("recommended %q, want %q", ids, want)
		}
		where, err := r.Where(ctx)
		checkWhere(t, where, err, "Recommender")
	})
}

func TestMatch(t *testing.T) {
	all := []Product{
		{ID: "a", Tags: []string{"x"}},
		{ID: "b", Tags: []string{"y", "z"}},
		{ID: "c", Tags: []string{"x", "y"}},
		{ID: "d", Tags: []string{"x", "z"}},
	}
	for _, test := range []struct {
		cart string
		n    int
		want string
	}{
		{"", 9, "abcd"}, // nothing to go by: the catalog's order
		{"", 2, "ab"},
		{"a", 9, "cdb"},
		{"bc", 9, "da"}, // d shares x and z, a only x
		{"abcd", 9, ""},
		{"gone", 1, "a"},
		{"a", 0, ""},
		{"a", -1, ""},
	} {
		cart := strings.Split(test.cart, "")
		if test.cart == "gone" {
			cart = []string{"gone"}
		}
		if got := strings.Join(match(all, cart, test.n), ""); got != test.want {
			t.Errorf("match(%q, %d) = %q, want %q", test.cart, test.n, got, test.want)
		}
	}
}

func TestStats(t *testing.T) {
	everywhere(t, func(t *testing.T, s Stats) {
		ctx := t.Context()
		const orders = 40
		for i := range orders {
			if err := s.Record(ctx, fmt.Sprint("order-", i), 2, 300); err != nil {
				t.Fatal(err)
			}
		}
		// Each replica counted its own; together they must have counted all.
		byReplica := map[int]Report{}
		for range orders {
			r, err := s.Report(ctx)
			if err != nil {
				t.Fatal(err)
			}
			byReplica[r.Replica.PID] = r
		}
		var sum Report
		for _, r := range byReplica {
			sum.Orders += r.Orders
			sum.Pieces += r.Pieces
			sum.Revenue += r.Revenue
		}
		if sum.Orders != orders || sum.Pieces != 2*orders || sum.Revenue != 300*orders {
			t.Errorf("%d replicas counted %+v", len(byReplica), sum)
		}
		where, err := s.Where(ctx)
		checkWhere(t, where, err, "Stats")
	})
}

func TestStatsForgetsOldOrders(t *testing.T) {
	inProcess(t, "", func(t *testing.T, s *stats) {
		record := func(i, want int) {
			t.Helper()
			if err := s.Record(t.Context(), fmt.Sprint(i), 1, 1); err != nil {
				t.Fatal(err)
			}
			if s.report.Orders != want {
				t.Fatalf("order %d: %d counted, want %d", i, s.report.Orders, want)
			}
		}
		for i := range ordersKept + 1 {
			record(i, i+1)
		}
		record(1, ordersKept+1) // still known
		record(0, ordersKept+2) // forgotten, so counted again
		if len(s.seen) != ordersKept {
			t.Errorf("%d orders kept, want %d", len(s.seen), ordersKept)
		}
	})
}
