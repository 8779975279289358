//go:build linux

package e2e_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// TestLoadEvensOut sends a third of the requests for one user, and sees the
// calls of the routed component even out among its replicas.
func TestLoadEvensOut(t *testing.T) {
	full(t)
	t.Parallel()
	h := newHome(t)
	d := h.deploy(t, "multi", "-log-level", "off", h.app(t, "shop"))
	address := d.ready(t, "shop")
	if _, stderr, status := d.multi(t, "scale", "shop.Cart", "4"); status != 0 {
		t.Fatal(stderr)
	}
	eventually(t, "four replicas serve", func() bool { return groupOf(t, d.status(t), "shop.Cart").Serving() == 4 })
	first := groupOf(t, d.status(t), "shop.Cart").Components[0].Assignment

	// hottest sends requests and returns how many times its fair share the
	// busiest of the four replicas has of them.
	n := 0
	hottest := func() float64 {
		const requests = 600
		calls := map[int]int{}
		for range requests {
			user := fmt.Sprintf("user%d", n%41)
			if n++; n%3 == 0 {
				user = "favourite"
			}
			var answer struct {
				Cart struct{ Replica struct{ Pid int } }
			}
			if err := json.Unmarshal([]byte(get(t, address+"/api/visit?user="+user)), &answer); err != nil {
				t.Fatal(err)
			}
			calls[answer.Cart.Replica.Pid]++
		}
		most := 0
		for _, n := range calls {
			most = max(most, n)
		}
		return float64(most) / requests * 4
	}
	was := hottest()
	if was < 1.3 {
		t.Fatalf("the busiest replica has only %.2f times its share to begin with: this shows nothing", was)
	}
	t.Logf("the busiest replica began with %.2f times its share", was)
	var seen []float64
	for begin := time.Now(); ; {
		is := hottest()
		seen = append(seen, is)
		if is < 1.15 {
			break
		}
		if time.Since(begin) > 2*patience {
			t.Fatalf("the busiest replica still has more than its share: %.2f, then %.2f", was, seen)
		}
	}
	t.Logf("then %.2f", seen)
	if v := groupOf(t, d.status(t), "shop.Cart").Components[0].Assignment; v <= first {
		t.Errorf("the assignment is still version %d", v)
	}
	d.stops(t)
}
