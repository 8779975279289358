package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		start := time.Now()
		none := &Faults{}
		if err := none.strike(ctx, "X"); err != nil || time.Since(start) != 0 {
			t.Errorf("without faults: %v after %v", err, time.Since(start))
		}
		slow := &Faults{Latency: time.Second}
		if err := slow.strike(ctx, "X"); err != nil || time.Since(start) != time.Second {
			t.Errorf("slow: %v after %v", err, time.Since(start))
		}
		always := &Faults{ErrorPercent: 100}
		if err := always.strike(ctx, "X"); !errors.Is(err, errInjected) || err.Error() != "X: injected fault" {
			t.Errorf("always: %v", err)
		}
		canceled, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		if err := slow.strike(canceled, "X"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("slow beyond the deadline: %v", err)
		}
	})
}

func TestFaultsShare(t *testing.T) {
	const calls = 20_000
	quarter := &Faults{ErrorPercent: 25}
	failed := 0
	for range calls {
		if quarter.strike(t.Context(), "X") != nil {
			failed++
		}
	}
	// The standard deviation of the share is 0.3 %: this is ten of them.
	if share := float64(failed) / calls; math.Abs(share-0.25) > 0.03 {
		t.Errorf("%.3f of the calls failed, want 0.25", share)
	}
}

func TestFaultsAfter(t *testing.T) {
	later := &Faults{ErrorPercent: 100, After: time.Since(processStart) + time.Hour}
	if err := later.strike(t.Context(), "X"); err != nil {
		t.Errorf("an hour early: %v", err)
	}
	now := &Faults{ErrorPercent: 100, After: time.Nanosecond}
	if err := now.strike(t.Context(), "X"); err == nil {
		t.Error("no fault after its time")
	}
}

func TestConfigValidate(t *testing.T) {
	for _, bad := range []interface{ Validate() error }{
		&Faults{ErrorPercent: -1},
		&Faults{ErrorPercent: 100.5},
		&Faults{ErrorPercent: math.NaN()},
		&Faults{Latency: -1},
		&Faults{After: -1},
		&cartConfig{Capacity: -1},
		&cartConfig{Faults: Faults{ErrorPercent: 101}},
		&shopConfig{Faults: Faults{ErrorPercent: 101}},
	} {
		if bad.Validate() == nil {
			t.Errorf("%+v is valid", bad)
		}
	}
	if err := (&cartConfig{Faults: Faults{ErrorPercent: 100, Latency: time.Second, After: time.Second}, Capacity: 1}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestThemes(t *testing.T) {
	for version, want := range map[string]theme{
		"v1": themes[0],
		"v2": themes[1],
		"v6": themes[0],
	} {
		if got := themeOf(version); got != want {
			t.Errorf("theme of %s is %v", version, got)
		}
	}
	for _, other := range []string{"", "v0", "v10", "2026-01-31", "v"} {
		if got := themeOf(other); got != themeOf(other) || got.Accent == "" {
			t.Errorf("theme of %q is %v", other, got)
		}
	}
}

func TestMoney(t *testing.T) {
	for m, want := range map[Money]string{0: "€0.00", 5: "€0.05", 490: "€4.90", 123456: "€1234.56"} {
		if got := m.String(); got != want {
			t.Errorf("Money(%d) = %s, want %s", int64(m), got, want)
		}
	}
}

func TestShipping(t *testing.T) {
	for items, want := range map[Money]Money{1: shipping, freeShippingFrom - 1: shipping, freeShippingFrom: 0, freeShippingFrom + 1: 0} {
		if got := shippingFor(items); got != want {
			t.Errorf("shipping for %v is %v, want %v", items, got, want)
		}
	}
}

func FuzzContents(f *testing.F) {
	for _, seed := range []string{"0", "3|denim-tote:1|diamond-rug:2", "3|a:1|a:2", "-1", "1||", "1|a:0", "1|a:100", "x", "", "9999999999999999999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		c, err := parseContents(value)
		if err != nil {
			return
		}
		if c.Revision < 0 || c.Revision > maxRevision || len(c.Lines) > maxLines {
			t.Fatalf("%q parsed as %+v", value, c)
		}
		for _, l := range c.Lines {
			if l.Quantity < 1 || l.Quantity > maxQuantity || c.Quantity(l.Product) != l.Quantity {
				t.Fatalf("%q parsed as %+v", value, c)
			}
		}
		again, err := parseContents(formatContents(c))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(c) {
			t.Fatalf("%+v came back as %+v, %v", c, again, err)
		}
	})
}

func TestParseContentsRejects(t *testing.T) {
	many := "1"
	for i := range maxLines + 1 {
		many += fmt.Sprintf("|product-%d:1", i)
	}
	for _, bad := range []string{"", "x", "-1", "1|", "1|a", "1|a:0", "1|a:100", "1|a:1|a:1", "1|a b:1", "1|:1", "2000000000000", many} {
		if c, err := parseContents(bad); err == nil {
			t.Errorf("%q parsed as %+v", bad, c)
		}
	}
}

// Each product's picture must be XML and show, thread by thread, what its
// weave and its threads make.
func TestDrawCloth(t *testing.T) {
	path := regexp.MustCompile(`<path fill="(#[0-9a-f]{6})" d="([^"]*)"/>`)
	cells := regexp.MustCompile(`M(\d+) (\d+)h(\d+)v6h-(\d+)z`)
	size := regexp.MustCompile(`<pattern id="cloth" width="(\d+)" height="(\d+)"`)
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, p := range products {
		svg, err := drawCloth(p.Cloth)
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(strings.NewReader(svg)); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", p.ID, err)
			}
		}
		painted := map[[2]int]string{}
		for _, m := range path.FindAllStringSubmatch(svg, -1) {
			for _, c := range cells.FindAllStringSubmatch(m[2], -1) {
				x, y, w := number(c[1])/threadWidth, number(c[2])/threadWidth, number(c[3])/threadWidth
				for i := range w {
					at := [2]int{x + i, y}
					if painted[at] != "" {
						t.Fatalf("%s: %v painted twice", p.ID, at)
					}
					painted[at] = m[1]
				}
			}
		}
		s := size.FindStringSubmatch(svg)
		columns, rows := number(s[1])/threadWidth, number(s[2])/threadWidth
		if len(painted) != columns*rows {
			t.Fatalf("%s: %d crossings painted of %d by %d", p.ID, len(painted), columns, rows)
		}
		weave := weaves[p.Cloth.Weave]
		for y := range 3 * rows { // so that what is between the tiles is seen too
			for x := range 3 * columns {
				want := p.Cloth.Weft[y%len(p.Cloth.Weft)]
				if weave[y%len(weave)][x%len(weave[0])] == 'x' {
					want = p.Cloth.Warp[x%len(p.Cloth.Warp)]
				}
				if got := painted[[2]int{x % columns, y % rows}]; got != want {
					t.Fatalf("%s: thread at %d, %d is %s, want %s", p.ID, x, y, got, want)
				}
			}
		}
	}
}

func TestDrawClothErrors(t *testing.T) {
	for _, bad := range []Cloth{{}, {Weave: "felt", Warp: []string{ink}, Weft: []string{ink}}, {Weave: "plain", Warp: []string{ink}}} {
		if _, err := drawCloth(bad); err == nil {
			t.Errorf("%+v can be drawn", bad)
		}
	}
}

func TestWeavesAreEven(t *testing.T) {
	for name, rows := range weaves {
		for _, row := range rows {
			if len(row) != len(rows[0]) || strings.Trim(row, "x.") != "" {
				t.Errorf("%s has the row %q", name, row)
			}
		}
	}
}
