package main

import "slices"

// Thread colours.
const (
	ink    = "#22303c"
	linen  = "#efe6d5"
	cream  = "#faf4e6"
	indigo = "#33507d"
	sky    = "#9db8cf"
	rust   = "#b3552f"
	ochre  = "#d9a441"
	moss   = "#6f7f43"
	pine   = "#2f4a3c"
	rose   = "#d8a0a0"
	madder = "#9c2f3a"
	slate  = "#6b7783"
)

// threads repeats each colour as often as the number after it says.
func threads(runs ...any) []string {
	var all []string
	for run := range slices.Chunk(runs, 2) {
		all = append(all, slices.Repeat([]string{run[0].(string)}, run[1].(int))...)
	}
	return all
}

// products is what the Catalog lists. Nobody changes it.
var products = []Product{
	{
		ID: "gingham-towel", Name: "Gingham tea towel", Price: 1400,
		Text:  "Plain weave, two colours each way, four threads at a time. Dries glasses and looks honest doing it.",
		Tags:  []string{"kitchen", "cotton", "blue"},
		Cloth: Cloth{Weave: "plain", Warp: threads(indigo, 4, cream, 4), Weft: threads(indigo, 4, cream, 4)},
	},
	{
		ID: "houndstooth-scarf", Name: "Houndstooth scarf", Price: 4800,
		Text:  "A two-and-two twill in four dark and four light threads. The teeth come by themselves.",
		Tags:  []string{"wear", "wool", "dark"},
		Cloth: Cloth{Weave: "twill", Warp: threads(ink, 4, linen, 4), Weft: threads(ink, 4, linen, 4)},
	},
	{
		ID: "herringbone-blanket", Name: "Herringbone blanket", Price: 12900,
		Text:  "A twill that changes its mind every eight threads. Heavy enough for February.",
		Tags:  []string{"living", "wool", "green"},
		Cloth: Cloth{Weave: "herringbone", Warp: threads(pine, 1), Weft: threads(linen, 1)},
	},
	{
		ID: "tartan-throw", Name: "Tartan throw", Price: 8900,
		Text:  "No clan claims it, so anyone may wear it on the sofa.",
		Tags:  []string{"living", "wool", "red"},
		Cloth: Cloth{Weave: "twill", Warp: threads(madder, 12, ink, 4, madder, 2, ochre, 2, madder, 2, ink, 4, madder, 6), Weft: threads(madder, 12, ink, 4, madder, 2, ochre, 2, madder, 2, ink, 4, madder, 6)},
	},
	{
		ID: "waffle-towel", Name: "Waffle bath towel", Price: 2900,
		Text:  "Long floats around small hollows: twice the surface to dry you with.",
		Tags:  []string{"bath", "cotton", "light"},
		Cloth: Cloth{Weave: "waffle", Warp: threads(cream, 1), Weft: threads(sky, 1)},
	},
	{
		ID: "basket-runner", Name: "Basket-weave table runner", Price: 3600,
		Text:  "Threads in pairs, over two and under two, as in a basket.",
		Tags:  []string{"kitchen", "linen", "yellow"},
		Cloth: Cloth{Weave: "basket", Warp: threads(ochre, 1), Weft: threads(linen, 1)},
	},
	{
		ID: "diamond-rug", Name: "Diamond rug", Price: 24000,
		Text:  "A point twill mirrored both ways. Takes the weaver a week, hence the wait.",
		Tags:  []string{"living", "wool", "red"},
		Cloth: Cloth{Weave: "diamond", Warp: threads(rust, 1), Weft: threads(cream, 1)},
	},
	{
		ID: "striped-apron", Name: "Striped linen apron", Price: 3900,
		Text:  "Stripes in the warp only: the loom does the drawing, the weaver just keeps going.",
		Tags:  []string{"kitchen", "linen", "green", "wear"},
		Cloth: Cloth{Weave: "plain", Warp: threads(moss, 6, linen, 2, moss, 2, linen, 6), Weft: threads(linen, 1)},
	},
	{
		ID: "logcabin-coasters", Name: "Log-cabin coasters", Price: 1800,
		Text:  "Nothing but plain weave and two colours that swap places. Four to a set.",
		Tags:  []string{"kitchen", "cotton", "dark"},
		Cloth: Cloth{Weave: "plain", Warp: slices.Concat(slices.Repeat(threads(ink, 1, rose, 1), 4), slices.Repeat(threads(rose, 1, ink, 1), 4)), Weft: slices.Concat(slices.Repeat(threads(ink, 1, rose, 1), 4), slices.Repeat(threads(rose, 1, ink, 1), 4))},
	},
	{
		ID: "satin-cushion", Name: "Satin cushion", Price: 4200,
		Text:  "Five-end satin: the warp shows four times out of five, and shines for it.",
		Tags:  []string{"living", "silk", "red"},
		Cloth: Cloth{Weave: "satin", Warp: threads(madder, 1), Weft: threads(rose, 1)},
	},
	{
		ID: "denim-tote", Name: "Denim tote", Price: 2400,
		Text:  "Three-and-one twill, blue warp, white weft. Carries two kilos of yarn home.",
		Tags:  []string{"wear", "cotton", "blue"},
		Cloth: Cloth{Weave: "denim", Warp: threads(indigo, 3, "#3d5c8c", 1), Weft: threads(cream, 1)},
	},
	{
		ID: "windowpane-napkins", Name: "Windowpane napkins", Price: 2800,
		Text:  "One rust thread in ten, both ways. Four to a set, and they forgive tomato.",
		Tags:  []string{"kitchen", "linen", "light"},
		Cloth: Cloth{Weave: "plain", Warp: threads(linen, 9, rust, 1), Weft: threads(linen, 9, rust, 1)},
	},
}

// shelves is what the Inventory has, by product: pieces left, and days until
// the parcel is at the door. It does not go down, so that a load test never
// sells the shop out.
var shelves = map[string]Stock{
	"gingham-towel":       {Left: 120, Days: 2},
	"houndstooth-scarf":   {Left: 34, Days: 2},
	"herringbone-blanket": {Left: 8, Days: 4},
	"tartan-throw":        {Left: 15, Days: 3},
	"waffle-towel":        {Left: 60, Days: 2},
	"basket-runner":       {Left: 22, Days: 3},
	"diamond-rug":         {Left: 0, Days: 9},
	"striped-apron":       {Left: 41, Days: 2},
	"logcabin-coasters":   {Left: 75, Days: 2},
	"satin-cushion":       {Left: 3, Days: 5},
	"denim-tote":          {Left: 90, Days: 2},
	"windowpane-napkins":  {Left: 48, Days: 3},
}
