package main

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"time"

	"github.com/ServiceWeaver/weaver"
)

var (
	//go:embed shop.html
	pageSource string

	//go:embed shop.css
	styleSource string

	pageTemplate = template.Must(template.New("shop").Funcs(template.FuncMap{
		"times": func(m Money, n int) Money { return m * Money(n) },
		"plus":  func(a, b int) int { return a + b },
	}).Parse(pageSource))
)

// page is what shop.html shows: a frame common to all pages, around the one
// that Name names.
type page struct {
	Name     string
	Title    string
	Style    template.CSS
	Accent   template.CSS // the colours of the build
	ServedBy Replica
	Cart     Contents
	Basket   *Basket // nil if Cart was not asked, or did not answer
	Notes    []string
	Body     any
}

// newPage returns the frame of the page with the name, around body.
func newPage(name, title string, ss session, basket *Basket, body any) page {
	me := here("main")
	t := themeOf(me.Version)
	return page{
		Name:     name,
		Title:    title,
		Style:    template.CSS(styleSource),
		Accent:   template.CSS(fmt.Sprintf(":root{--accent:%s;--glow:%s;--tint:%s}", t.Accent, t.Glow, t.Tint)),
		ServedBy: me,
		Cart:     ss.Cart,
		Basket:   basket,
		Body:     body,
	}
}

func (p page) write(w http.ResponseWriter, status int) error {
	var buf bytes.Buffer
	if err := pageTemplate.Execute(&buf, p); err != nil {
		return fmt.Errorf("write page %s: %w", p.Name, err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(buf.Len()))
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; form-action 'self'")
	h.Set("Referrer-Policy", "same-origin")
	w.WriteHeader(status)
	w.Write(buf.Bytes()) // an error here is the client's having gone
	return nil
}

// item is a product as the pages show it.
type item struct {
	Product
	Stock  Stock
	InCart int
}

// openCart returns the customer's cart. If Cart does not answer, the customer
// shops on with what the browser remembers, and basket is nil.
func (s *shop) openCart(w http.ResponseWriter, r *http.Request) (_ session, basket *Basket) {
	ss := openSession(w, r)
	b, err := s.cart.Get().Get(r.Context(), ss.User, ss.Cart)
	if err != nil {
		s.Logger(r.Context()).Warn("Showing the cart from memory", "err", err)
		return ss, nil
	}
	ss.remember(w, b.Contents)
	return ss, &b
}

// items returns every product, with its stock and how many of it the cart has.
func (s *shop) items(ctx context.Context, cart Contents) ([]item, error) {
	all, err := s.catalog.Get().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list products: %w", err)
	}
	stocks, err := s.inventory.Get().Check(ctx, idsOf(all))
	if err != nil {
		return nil, fmt.Errorf("check stock: %w", err)
	}
	items := make([]item, len(all))
	for i, p := range all {
		items[i] = item{Product: p, Stock: stocks[i], InCart: cart.Quantity(p.ID)}
	}
	return items, nil
}

// recommended picks up to n of the items that go with the cart and can be had.
// Without a Recommender there is nothing to pick, and a note says so.
func (s *shop) recommended(ctx context.Context, cart Contents, items []item, n int) (picked []item, note string) {
	ids, err := s.recommender.Get().Recommend(ctx, cart.Products(), len(items))
	if err != nil {
		s.Logger(ctx).Warn("No recommendations", "err", err)
		return nil, "The Recommender did not answer, so there are no recommendations."
	}
	for _, id := range ids {
		for _, it := range items {
			if it.ID == id && it.Stock.Left > 0 && len(picked) < n {
				picked = append(picked, it)
			}
		}
	}
	return picked, ""
}

func (p *page) note(text string) {
	if text != "" {
		p.Notes = append(p.Notes, text)
	}
}

const cartNote = "The Cart did not answer: this is what your browser remembers."

func (s *shop) serveHome(w http.ResponseWriter, r *http.Request) error {
	ss, basket := s.openCart(w, r)
	items, err := s.items(r.Context(), ss.Cart)
	if err != nil {
		return err
	}
	var picked []item
	var note string
	if len(ss.Cart.Lines) > 0 {
		picked, note = s.recommended(r.Context(), ss.Cart, items, 3)
	}
	p := newPage("home", "Hand-woven cloth", ss, basket, map[string]any{"Items": items, "Picked": picked})
	p.note(note)
	if basket == nil {
		p.note(cartNote)
	}
	return p.write(w, http.StatusOK)
}

// cartLine is a line of the cart as the page shows it. Gone is a product that
// this build of the shop does not sell.
type cartLine struct {
	item
	Gone bool
}

// Short reports whether the warehouse has fewer than the cart.
func (l cartLine) Short() bool { return !l.Gone && l.Stock.Left < l.InCart }

func (s *shop) serveCart(w http.ResponseWriter, r *http.Request) error {
	ss, basket := s.openCart(w, r)
	items, err := s.items(r.Context(), ss.Cart)
	if err != nil {
		return err
	}
	byID := make(map[string]item, len(items))
	for _, it := range items {
		byID[it.ID] = it
	}
	var lines []cartLine
	var total Money
	ready := true // to be checked out
	for _, l := range ss.Cart.Lines {
		it, ok := byID[l.Product]
		if !ok {
			it = item{Product: Product{ID: l.Product, Name: l.Product}, InCart: l.Quantity}
		}
		line := cartLine{item: it, Gone: !ok}
		ready = ready && ok && !line.Short()
		total += it.Price * Money(l.Quantity)
		lines = append(lines, line)
	}
	picked, note := s.recommended(r.Context(), ss.Cart, items, 3)
	p := newPage("cart", "Your cart", ss, basket, map[string]any{
		"Lines":    lines,
		"Items":    total,
		"Shipping": shippingFor(total),
		"Total":    total + shippingFor(total),
		"FreeFrom": freeShippingFrom,
		"Ready":    ready,
		"Picked":   picked,
	})
	p.note(note)
	if basket == nil {
		p.note(cartNote)
	}
	return p.write(w, http.StatusOK)
}

// changeCart takes the forms that add one piece (add=1, and then=cart to go on
// to the cart) and those that set how many there are to be (quantity=n).
func (s *shop) changeCart(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	ss, _ := s.openCart(w, r)
	product := r.FormValue("product")
	add := r.FormValue("add") != ""
	quantity := ss.Cart.Quantity(product) + 1
	if !add {
		var err error
		if quantity, err = strconv.Atoi(r.FormValue("quantity")); err != nil {
			return badRequest("quantity: want a number")
		}
	}
	if quantity > 0 { // what is no longer sold may be taken out
		if _, err := s.catalog.Get().Get(ctx, []string{product}); err != nil {
			return fmt.Errorf("get product: %w", err)
		}
	}
	basket, err := s.cart.Get().Set(ctx, ss.User, ss.Cart, product, quantity)
	if err != nil {
		return fmt.Errorf("set cart: %w", err)
	}
	ss.remember(w, basket.Contents)
	to := "/cart"
	if add && r.FormValue("then") != "cart" {
		to = "/#" + product // back to where the button was
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

func (s *shop) placeOrder(w http.ResponseWriter, r *http.Request) error {
	ss := openSession(w, r)
	order := Order{ID: rand.Text()[:10], User: ss.User, Cart: ss.Cart}
	receipt, err := s.checkout.Get().Place(r.Context(), order)
	if errors.Is(err, weaver.RemoteCallError) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("order %s may or may not have gone through: %w", order.ID, err)
	}
	if err != nil {
		return fmt.Errorf("order %s: %w", order.ID, err)
	}
	receipt.Replicas = append(receipt.Replicas, here("main"))
	ss.remember(w, receipt.Cart)
	if err := setReceipt(w, receipt); err != nil {
		return err
	}
	http.Redirect(w, r, "/receipt", http.StatusSeeOther)
	return nil
}

func (s *shop) serveReceipt(w http.ResponseWriter, r *http.Request) error {
	ss, basket := s.openCart(w, r)
	receipt, ok := lastReceipt(r)
	if !ok {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return nil
	}
	return newPage("receipt", "Thank you", ss, basket, receipt).write(w, http.StatusOK)
}

// serveInside shows which replicas are behind the counter.
func (s *shop) serveInside(w http.ResponseWriter, r *http.Request) error {
	ss, basket := s.openCart(w, r)
	type row struct {
		Replica
		Took time.Duration // of the answer
		Err  error
	}
	var rows []row
	for _, answer := range s.askEverybody(r.Context(), ss.User) {
		if answer.Err != nil {
			rows = append(rows, row{Replica: Replica{Component: answer.Component}, Err: answer.Err})
		}
		for _, replica := range answer.Replicas {
			rows = append(rows, row{Replica: replica, Took: answer.Took.Round(time.Microsecond)})
		}
	}
	p := newPage("inside", "Behind the counter", ss, basket, nil)
	report, err := s.stats.Get().Report(r.Context())
	if err != nil {
		s.Logger(r.Context()).Warn("No stats", "err", err)
		p.note("Stats did not answer.")
	}
	p.Body = map[string]any{
		"Rows":       rows,
		"Report":     report,
		"Reported":   err == nil,
		"User":       ss.User,
		"Deployment": s.Weaver().DeploymentID,
	}
	return p.write(w, http.StatusOK)
}

func (s *shop) serveCloth(w http.ResponseWriter, r *http.Request) error {
	found, err := s.catalog.Get().Get(r.Context(), []string{r.PathValue("product")})
	var refusal Refusal
	if errors.As(err, &refusal) {
		return s.serveNotFound(w, r)
	}
	if err != nil {
		return fmt.Errorf("get product: %w", err)
	}
	svg, err := drawCloth(found[0].Cloth)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "image/svg+xml")
	w.Header().Set("Cache-Control", "public, max-age=3600")
	w.Write([]byte(svg)) // an error here is the client's having gone
	return nil
}

func (s *shop) serveNotFound(w http.ResponseWriter, r *http.Request) error {
	return newPage("message", "Nothing here", readSession(r), nil, "There is no page at "+r.URL.Path+".").write(w, http.StatusNotFound)
}

// pageFailed tells the customer what went wrong, without any component's help.
func (s *shop) pageFailed(w http.ResponseWriter, r *http.Request, err error) {
	title, text := "A thread broke", err.Error()
	var refusal Refusal
	if errors.As(err, &refusal) {
		title, text = "Sorry", refusal.Reason
	}
	p := newPage("message", title, readSession(r), nil, text)
	if err := p.write(w, statusOf(err)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
