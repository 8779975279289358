package main

import (
	"fmt"
	"slices"
	"strings"
)

// weaves says, as weavers do on squared paper, which thread is on top where:
// rows of an x for each crossing at which the warp passes over the weft. The
// rows repeat in both directions.
var weaves = map[string][]string{
	"plain":  {"x.", ".x"},
	"basket": {"xx..", "xx..", "..xx", "..xx"},
	"twill":  {"xx..", ".xx.", "..xx", "x..x"},
	"denim":  {"xxx.", ".xxx", "x.xx", "xx.x"},
	"satin":  {".xxxx", "xx.xx", "xxxx.", "x.xxx", "xxx.x"},
	"herringbone": {
		"xx..xx....xx..xx",
		".xx..xx..xx..xx.",
		"..xx..xxxx..xx..",
		"x..xx..xx..xx..x",
	},
	"diamond": {
		"xx..xx....xx..xx",
		"x..xx..xx..xx..x",
		"..xx..xxxx..xx..",
		".xx..xx..xx..xx.",
		"xx..xx....xx..xx",
		"x..xx......xx..x",
		"..xx........xx..",
		".xx..........xx.",
		".xx..........xx.",
		"..xx........xx..",
		"x..xx......xx..x",
		"xx..xx....xx..xx",
		".xx..xx..xx..xx.",
		"..xx..xxxx..xx..",
		"x..xx..xx..xx..x",
		"xx..xx....xx..xx",
	},
	"waffle": {
		"x.......",
		".x.....x",
		"..x...xx",
		"...x.xxx",
		"....xxxx",
		"...x.xxx",
		"..x...xx",
		".x.....x",
	},
}

// threadWidth is in the units of the picture, which is clothWidth by
// clothHeight of them.
const (
	threadWidth = 6
	clothWidth  = 480
	clothHeight = 320
)

// drawCloth returns a picture of the cloth as SVG: the smallest piece that
// repeats, as a pattern, over the whole ground.
func drawCloth(c Cloth) (string, error) {
	weave, ok := weaves[c.Weave]
	if !ok {
		return "", fmt.Errorf("draw cloth: no weave %q", c.Weave)
	}
	if len(c.Warp) == 0 || len(c.Weft) == 0 {
		return "", fmt.Errorf("draw cloth: no threads in %s", c.Weave)
	}
	columns, rows := lcm(len(weave[0]), len(c.Warp)), lcm(len(weave), len(c.Weft))
	warpUp := func(x, y int) bool { row := weave[y%len(weave)]; return row[x%len(row)] == 'x' }

	// Each colour is one path of its cells, equal neighbours in a row joined.
	// The edges of the thread on top are shaded, which is what makes it cloth.
	fills := map[string]*strings.Builder{}
	var edges strings.Builder
	const w = threadWidth
	for y := range rows {
		for x := 0; x < columns; {
			colour, run := "", 0
			for ; x+run < columns; run++ {
				next := c.Weft[y%len(c.Weft)]
				if warpUp(x+run, y) {
					next = c.Warp[(x+run)%len(c.Warp)]
				}
				if run > 0 && next != colour {
					break
				}
				colour = next
				if warpUp(x+run, y) {
					fmt.Fprintf(&edges, "M%d %dv%dm%d 0v-%d", (x+run)*w, y*w, w, w, w)
				} else {
					fmt.Fprintf(&edges, "M%d %dh%dm0 %dh-%d", (x+run)*w, y*w, w, w, w)
				}
			}
			if fills[colour] == nil {
				fills[colour] = new(strings.Builder)
			}
			fmt.Fprintf(fills[colour], "M%d %dh%dv%dh-%dz", x*w, y*w, run*w, w, run*w)
			x += run
		}
	}

	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" preserveAspectRatio="xMidYMid slice">`, clothWidth, clothHeight)
	fmt.Fprintf(&svg, `<pattern id="cloth" width="%d" height="%d" patternUnits="userSpaceOnUse">`, columns*w, rows*w)
	colours := make([]string, 0, len(fills))
	for colour := range fills {
		colours = append(colours, colour)
	}
	slices.Sort(colours)
	for _, colour := range colours {
		fmt.Fprintf(&svg, `<path fill="%s" d="%s"/>`, colour, fills[colour])
	}
	fmt.Fprintf(&svg, `<path fill="none" stroke="#000" stroke-opacity=".13" d="%s"/>`, &edges)
	svg.WriteString(`</pattern><rect width="100%" height="100%" fill="url(#cloth)"/></svg>`)
	return svg.String(), nil
}

// lcm is the least common multiple of two positive numbers.
func lcm(a, b int) int {
	gcd, rest := a, b
	for rest != 0 {
		gcd, rest = rest, gcd%rest
	}
	return a / gcd * b
}
