package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ServiceWeaver/weaver"
	"github.com/ServiceWeaver/weaver/weavertest"
)

const mainSection = "[\"github.com/ServiceWeaver/weaver/Main\"]\n"

// A browser is a customer's: it keeps cookies and follows redirects.
type browser struct {
	t    *testing.T
	base string
	http *http.Client
}

func newBrowser(t *testing.T, s *shop) *browser {
	t.Helper()
	server := httptest.NewServer(s.handler())
	t.Cleanup(server.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t: t, base: server.URL, http: &http.Client{Jar: jar}}
}

// do returns the answer to a request with the form, whose status must be as
// wanted.
func (b *browser) do(want int, method, path string, form url.Values) (body string, r *http.Response) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r, err = b.http.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer r.Body.Close()
	all, err := io.ReadAll(r.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if r.StatusCode != want {
		b.t.Fatalf("%s %s: status %d, want %d\n%s", method, path, r.StatusCode, want, all)
	}
	return string(all), r
}

func (b *browser) get(path string) string {
	b.t.Helper()
	body, _ := b.do(http.StatusOK, "GET", path, nil)
	return body
}

func (b *browser) post(path string, form ...string) string {
	b.t.Helper()
	values := url.Values{}
	for i := 0; i < len(form); i += 2 {
		values.Set(form[i], form[i+1])
	}
	body, _ := b.do(http.StatusOK, "POST", path, values)
	return body
}

func checkHas(t *testing.T, page string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(page, want) {
			t.Errorf("page lacks %q:\n%s", want, page[strings.Index(page, "<body>"):])
		}
	}
}

func checkLacks(t *testing.T, page string, bad ...string) {
	t.Helper()
	for _, b := range bad {
		if strings.Contains(page, b) {
			t.Errorf("page has %q", b)
		}
	}
}

func TestShopping(t *testing.T) {
	for _, runner := range weavertest.AllRunners() {
		runner.Config = "[single]\nlisteners.shop = { address = \"localhost:0\" }"
		runner.Test(t, func(t *testing.T, s *shop) {
			b := newBrowser(t, s)

			home := b.get("/")
			for _, p := range products {
				checkHas(t, home, `id="`+p.ID+`"`, `src="/cloth/`+p.ID+`"`, p.Price.String())
			}
			checkHas(t, home, "Sold out", "Cart <b>0</b>", `<b class="build">v1</b>`, themes[0].Accent)
			checkLacks(t, home, "Goes well", "http://", "https://", "<script")

			home = b.post("/cart", "product", "tartan-throw", "add", "1")
			checkHas(t, home, "Cart <b>1</b>", "1 in cart", "Goes well with your cart")
			cart := b.post("/cart", "product", "striped-apron", "add", "1", "then", "cart")
			checkHas(t, cart, "<h1>Your cart</h1>", "Tartan throw", "Striped linen apron", "€128.00", "free")
			checkLacks(t, cart, "Diamond rug") // recommended, but for being sold out
			b.post("/cart", "product", "tartan-throw", "quantity", "0")
			cart = b.post("/cart", "product", "striped-apron", "quantity", "2")
			checkHas(t, cart, "Cart <b>2</b>", "€78.00", "€4.90", "€82.90")
			checkLacks(t, cart, "Remove Tartan throw")

			receipt := b.post("/checkout")
			checkHas(t, receipt, "Thank you", "2 pieces", "€82.90", "<b>Payment</b>", "Cart <b>0</b>")
			checkHas(t, b.get("/receipt"), "Thank you") // again, without another order
			checkHas(t, b.get("/cart"), "It is empty")

			inside := b.get("/inside")
			for _, name := range []string{"main", "Catalog", "Inventory", "Cart", "Recommender", "Stats", "Checkout", "Payment"} {
				checkHas(t, inside, "<td>"+name)
			}
			refused, _ := b.do(http.StatusConflict, "POST", "/checkout", nil)
			checkHas(t, refused, "There is nothing in the cart.")
		})
	}
}

func TestPages(t *testing.T) {
	inProcess(t, "", func(t *testing.T, s *shop) {
		b := newBrowser(t, s)
		_, r := b.do(http.StatusOK, "GET", "/", nil)
		for name, want := range map[string]string{
			"Shop-Version":  "v1",
			"Shop-Replica":  "local/",
			"Content-Type":  "text/html; charset=utf-8",
			"Cache-Control": "no-store",
		} {
			if got := r.Header.Get(name); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		_, r = b.do(http.StatusOK, "GET", "/cloth/denim-tote", nil)
		if got := r.Header.Get("Content-Type"); got != "image/svg+xml" {
			t.Errorf("cloth is %s", got)
		}
		missing, _ := b.do(http.StatusNotFound, "GET", "/nowhere", nil)
		checkHas(t, missing, "There is no page at /nowhere.")
		b.do(http.StatusNotFound, "GET", "/cloth/anvil", nil)
		b.do(http.StatusConflict, "POST", "/cart", url.Values{"product": {"anvil"}, "add": {"1"}})
		b.do(http.StatusConflict, "POST", "/cart", url.Values{"product": {"denim-tote"}, "quantity": {"100"}})
		b.do(http.StatusBadRequest, "POST", "/cart", url.Values{"product": {"denim-tote"}, "quantity": {"x"}})
		b.do(http.StatusMethodNotAllowed, "DELETE", "/cart", nil)
		b.do(http.StatusNotFound, "GET", "/debug/shop/fail", nil)
		checkHas(t, b.get("/receipt"), "Cloth, woven by hand.") // nothing bought: off to the shop
		health, _ := b.do(http.StatusOK, "GET", weaver.HealthzURL, nil)
		if health != "OK" {
			t.Errorf("health %q", health)
		}
	})
}

// A product that this build does not sell may be in the browser's cart, from
// another build; the customer can take it out and go on.
func TestGoneProduct(t *testing.T) {
	inProcess(t, "", func(t *testing.T, s *shop) {
		b := newBrowser(t, s)
		at, err := url.Parse(b.base)
		if err != nil {
			t.Fatal(err)
		}
		b.http.Jar.SetCookies(at, []*http.Cookie{{Name: cartCookie, Value: "3|anvil:1|satin-cushion:9|denim-tote:1"}})
		cart := b.get("/cart")
		checkHas(t, cart, "No longer sold", "Only 3 left", "please take it out first", "restored from your browser")
		checkLacks(t, cart, "Place the order")
		b.do(http.StatusConflict, "POST", "/checkout", nil)
		b.post("/cart", "product", "anvil", "quantity", "0")
		checkHas(t, b.post("/cart", "product", "satin-cushion", "quantity", "3"), "Place the order")
	})
}

func TestSideComponentsMayFail(t *testing.T) {
	inProcess(t, "", func(t *testing.T, s *shop) {
		b := newBrowser(t, s)
		at, err := url.Parse(b.base)
		if err != nil {
			t.Fatal(err)
		}
		b.http.Jar.SetCookies(at, []*http.Cookie{{Name: cartCookie, Value: "3|denim-tote:2"}})
		checkHas(t, b.get("/"), "Cart <b>2</b>", "The Cart did not answer", "The Recommender did not answer")
		checkHas(t, b.get("/cart"), "Denim tote", "The Cart did not answer")
		checkHas(t, b.get("/inside"), "Stats did not answer.", "where is Stats: broken")
		b.do(http.StatusInternalServerError, "GET", "/api/visit?user=lena", nil)

		// Nobody knows what became of the order: no second one without asking.
		doubt, _ := b.do(http.StatusServiceUnavailable, "POST", "/checkout", nil)
		checkHas(t, doubt, "may or may not have gone through")
	},
		weavertest.Fake[Cart](brokenCart{}),
		weavertest.Fake[Recommender](brokenRecommender{}),
		weavertest.Fake[Stats](silentStats{}),
		weavertest.Fake[Checkout](lostCheckout{}))
}

type brokenCart struct{ Cart }

func (brokenCart) Get(context.Context, string, Contents) (Basket, error) { return Basket{}, errBroken }
func (brokenCart) Where(context.Context, string) ([]Replica, error)      { return nil, errBroken }

type brokenRecommender struct{ Recommender }

func (brokenRecommender) Recommend(context.Context, []string, int) ([]string, error) {
	return nil, errBroken
}
func (brokenRecommender) Where(context.Context) ([]Replica, error) { return nil, errBroken }

type silentStats struct{ Stats }

func (silentStats) Report(context.Context) (Report, error)   { return Report{}, errBroken }
func (silentStats) Where(context.Context) ([]Replica, error) { return nil, errBroken }

type lostCheckout struct{ Checkout }

func (lostCheckout) Place(context.Context, Order) (Receipt, error) {
	return Receipt{}, fmt.Errorf("connection lost: %w", weaver.RemoteCallError)
}
func (lostCheckout) Where(context.Context) ([]Replica, error) { return nil, errBroken }

func TestAPI(t *testing.T) {
	for _, runner := range weavertest.AllRunners() {
		runner.Config = "[single]\nlisteners.shop = { address = \"localhost:0\" }"
		runner.Test(t, func(t *testing.T, s *shop) {
			b := newBrowser(t, s)
			ask := func(want int, method, path string, v any) {
				t.Helper()
				body, _ := b.do(want, method, path, nil)
				if err := json.Unmarshal([]byte(body), v); err != nil {
					t.Fatalf("%s %s: %v in %s", method, path, err, body)
				}
			}
			var v visit
			ask(200, "GET", "/api/visit?user=lena", &v)
			if v.User != "lena" || v.Products != len(products) || v.InStock != len(products)-1 || len(v.Recommended) != 3 ||
				v.ServedBy.Component != "main" || v.Cart.Replica.Component != "Cart" {
				t.Errorf("visit %+v", v)
			}
			var basket Basket
			ask(200, "PUT", "/api/cart?user=lena&product=denim-tote&quantity=3", &basket)
			if basket.Contents.Quantity("denim-tote") != 3 {
				t.Errorf("cart %+v", basket)
			}
			var receipt Receipt
			ask(200, "POST", "/api/orders?user=ole&product=tartan-throw", &receipt)
			if receipt.Pieces != 1 || receipt.Items != 8900 || receipt.Order == "" {
				t.Errorf("receipt %+v", receipt)
			}
			var replicas []Replica
			ask(200, "GET", "/api/replicas?user=lena", &replicas)
			checkWhere(t, replicas, nil, "main", "Catalog", "Inventory", "Cart", "Recommender", "Stats", "Checkout", "Payment")

			var failure struct {
				Error    string
				ServedBy Replica `json:"served_by"`
			}
			for _, bad := range []struct {
				status       int
				method, path string
				word         string
			}{
				{400, "GET", "/api/visit", "user"},
				{400, "GET", "/api/visit?user=a%20b", "user"},
				{400, "GET", "/api/replicas?user=" + strings.Repeat("x", 65), "user"},
				{400, "PUT", "/api/cart?user=lena&product=denim-tote&quantity=two", "quantity"},
				{409, "PUT", "/api/cart?user=lena&product=anvil", "anvil"},
				{409, "POST", "/api/orders?user=nobody", "nothing in the cart"},
				{409, "POST", "/api/orders?user=rich&product=diamond-rug", "0 left"},
			} {
				ask(bad.status, bad.method, bad.path, &failure)
				if !strings.Contains(failure.Error, bad.word) || failure.ServedBy.PID == 0 {
					t.Errorf("%s: %+v", bad.path, failure)
				}
			}
		})
	}
}

func TestFaultsByConfig(t *testing.T) {
	config := fmt.Sprintf("[%q]\nerror_percent = 100\n[%q]\nlatency = \"20ms\"\ncapacity = 3\n", configPrefix+"Recommender", configPrefix+"Cart") +
		mainSection + "unhealthy = true\ndebug_endpoints = true\n"
	inProcess(t, config, func(t *testing.T, s *shop) {
		b := newBrowser(t, s)
		start := time.Now()
		body, _ := b.do(500, "GET", "/api/visit?user=lena", nil)
		if !strings.Contains(body, "Recommender: injected fault") {
			t.Errorf("visit failed with %s", body)
		}
		if took := time.Since(start); took < 20*time.Millisecond {
			t.Errorf("visit took %v in spite of the latency", took)
		}
		checkHas(t, b.get("/cart"), "The Recommender did not answer")

		b.do(503, "GET", weaver.HealthzURL, nil)
		b.do(503, "GET", "/debug/shop/fail?status=503", nil)
		b.do(500, "GET", "/debug/shop/fail", nil)
		b.do(400, "GET", "/debug/shop/fail?status=200", nil)
		b.do(400, "GET", "/debug/shop/slow", nil)
		start = time.Now()
		b.do(200, "GET", "/debug/shop/slow?for=20ms", nil)
		if took := time.Since(start); took < 20*time.Millisecond {
			t.Errorf("slow took %v", took)
		}
	})
}

// The faults of main hit its pages and its API, and leave its health alone.
func TestMainFaults(t *testing.T) {
	inProcess(t, mainSection+"error_percent = 100\n", func(t *testing.T, s *shop) {
		b := newBrowser(t, s)
		page, r := b.do(500, "GET", "/", nil)
		checkHas(t, page, "A thread broke", "main: injected fault")
		if r.Header.Get("Shop-Version") != "v1" {
			t.Error("a failed page does not tell its version")
		}
		b.do(500, "GET", "/api/visit?user=lena", nil)
		b.do(200, "GET", weaver.HealthzURL, nil)
	})
}

func TestVersionOverride(t *testing.T) {
	t.Setenv("SHOP_VERSION", "v2")
	inProcess(t, "", func(t *testing.T, s *shop) {
		page := newBrowser(t, s).get("/")
		checkHas(t, page, `<b class="build">v2</b>`, themes[1].Accent)
		checkLacks(t, page, themes[0].Accent)
	})
}

// The listener is served until Shutdown, which lets requests in flight end.
func TestServeAndShutdown(t *testing.T) {
	inProcess(t, mainSection+"debug_endpoints = true\n", func(t *testing.T, s *shop) {
		inFlight := make(chan struct{})
		s.server.Handler = signal(s.server.Handler, inFlight)
		served := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { served <- serve(ctx, s) }()
		answered := make(chan error, 1)
		go func() {
			r, err := http.Get("http://" + s.listener.Addr().String() + "/debug/shop/slow?for=100ms")
			if err == nil {
				r.Body.Close()
				if r.StatusCode != http.StatusOK {
					err = fmt.Errorf("status %d", r.StatusCode)
				}
			}
			answered <- err
		}()
		<-inFlight
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-answered; err != nil {
			t.Errorf("request in flight: %v", err)
		}
		if _, err := net.Dial("tcp", s.listener.Addr().String()); err == nil {
			t.Error("the listener is still open")
		}
		select {
		case err := <-served:
			t.Errorf("serve returned %v before the process was to end", err)
		default:
		}
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

// signal closes reached at the first request.
func signal(h http.Handler, reached chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(reached)
		h.ServeHTTP(w, r)
	})
}

// The style leads to nothing outside, and neither do the pages.
func TestNoExternalAssets(t *testing.T) {
	for name, source := range map[string]string{"shop.css": styleSource, "shop.html": pageSource} {
		if found := regexp.MustCompile(`(?i)https?:|//[a-z]|@import|url\(|<script`).FindString(source); found != "" {
			t.Errorf("%s has %q", name, found)
		}
	}
}
