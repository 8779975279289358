package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/ServiceWeaver/weaver"
)

// handler returns everything the listener serves.
func (s *shop) handler() http.Handler {
	mux := http.NewServeMux()
	route := func(pattern, label string, h http.Handler) {
		mux.Handle(pattern, weaver.InstrumentHandler(label, h))
	}
	page := func(h pageFunc) http.Handler { return s.guard(h, s.pageFailed) }
	api := func(h apiFunc) http.Handler { return s.guard(h, apiFailed) }

	route("GET /{$}", "home", page(s.serveHome))
	route("GET /cart", "cart", page(s.serveCart))
	route("POST /cart", "cart change", page(s.changeCart))
	route("POST /checkout", "checkout", page(s.placeOrder))
	route("GET /receipt", "receipt", page(s.serveReceipt))
	route("GET /inside", "inside", page(s.serveInside))
	route("GET /cloth/{product}", "cloth", page(s.serveCloth))
	route("GET /", "not found", page(s.serveNotFound))

	route("GET /api/visit", "api visit", api(s.apiVisit))
	route("PUT /api/cart", "api cart", api(s.apiCart))
	route("POST /api/orders", "api orders", api(s.apiOrders))
	route("GET /api/replicas", "api replicas", api(s.apiReplicas))

	mux.HandleFunc("GET "+weaver.HealthzURL, s.serveHealth)
	if s.Config().DebugEndpoints {
		mux.HandleFunc("GET /debug/shop/slow", serveSlow)
		mux.HandleFunc("GET /debug/shop/fail", serveFail)
	}
	return mux
}

// A request is answered by a pageFunc, which writes a page or returns an error
// before it wrote anything, or by an apiFunc, whose value becomes JSON.
type (
	pageFunc func(http.ResponseWriter, *http.Request) error
	apiFunc  func(*http.Request) (any, error)
)

func (f pageFunc) answer(w http.ResponseWriter, r *http.Request) error { return f(w, r) }

func (f apiFunc) answer(w http.ResponseWriter, r *http.Request) error {
	v, err := f(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, v)
}

type answerer interface {
	answer(http.ResponseWriter, *http.Request) error
}

// guard gives every request a deadline, says who answers it, and lets main's
// own faults strike.
func (s *shop) guard(a answerer, failed func(http.ResponseWriter, *http.Request, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		r = r.WithContext(ctx)

		me := here("main")
		w.Header().Set("Shop-Version", me.Version)
		w.Header().Set("Shop-Replica", fmt.Sprintf("%s/%d", me.Weavelet, me.PID))
		w.Header().Set("Cache-Control", "no-store")
		err := s.Config().strike(ctx, "main")
		if err == nil {
			err = a.answer(w, r)
		}
		if err != nil {
			if statusOf(err) >= http.StatusInternalServerError {
				s.Logger(ctx).Error("Request failed", "method", r.Method, "path", r.URL.Path, "err", err)
			}
			failed(w, r, err)
		}
	})
}

// badRequest is a mistake in a request.
type badRequest string

func (b badRequest) Error() string { return string(b) }

// statusOf returns the HTTP status that tells of err.
func statusOf(err error) int {
	var refusal Refusal
	var bad badRequest
	switch {
	case errors.As(err, &bad):
		return http.StatusBadRequest
	case errors.As(err, &refusal):
		return http.StatusConflict
	case errors.Is(err, weaver.RemoteCallError), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

func apiFailed(w http.ResponseWriter, r *http.Request, err error) {
	v := map[string]any{"error": err.Error(), "served_by": here("main")}
	if err := writeJSON(w, statusOf(err), v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write reply: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n')) // an error here is the client's having gone
	return nil
}

// serveHealth is what deployers ask. It goes through no component and no
// fault: it tells of this process alone.
func (s *shop) serveHealth(w http.ResponseWriter, r *http.Request) {
	if s.Config().Unhealthy && s.Config().begun() {
		http.Error(w, "unhealthy, as configured", http.StatusServiceUnavailable)
		return
	}
	weaver.HealthzHandler(w, r)
}

// serveSlow answers after the time given by ?for=, such as 1500ms.
func serveSlow(w http.ResponseWriter, r *http.Request) {
	wait, err := time.ParseDuration(r.FormValue("for"))
	if err != nil || wait < 0 {
		http.Error(w, "want ?for=DURATION, such as 1500ms", http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(wait):
		fmt.Fprintf(w, "slept %v\n", wait)
	case <-r.Context().Done():
	}
}

// serveFail answers with the status given by ?status=, 500 without.
func serveFail(w http.ResponseWriter, r *http.Request) {
	status := http.StatusInternalServerError
	if v := r.FormValue("status"); v != "" {
		var err error
		if status, err = strconv.Atoi(v); err != nil || status < 400 || status > 599 {
			http.Error(w, "want ?status=400 to 599", http.StatusBadRequest)
			return
		}
	}
	http.Error(w, "failed, as asked", status)
}
