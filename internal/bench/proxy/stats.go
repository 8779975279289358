//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// A sample is a series of measurements of the same thing.
type sample []float64

// median returns the middle, or the mean of the two in the middle.
func (s sample) median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// over returns the ratios of measurements made in the same rounds.
func (s sample) over(t sample) sample {
	var ratios sample
	for i := range min(len(s), len(t)) {
		ratios = append(ratios, s[i]/t[i])
	}
	return ratios
}

// minus returns the differences to measurements made in the same rounds.
func (s sample) minus(t sample) sample {
	var differences sample
	for i := range min(len(s), len(t)) {
		differences = append(differences, s[i]-t[i])
	}
	return differences
}

// text returns the median and, in parentheses, the smallest and largest value.
func (s sample) text(format string) string {
	if len(s) == 0 {
		return "–"
	}
	f := func(v float64) string { return fmt.Sprintf(format, v) }
	return fmt.Sprintf("%s (%s–%s)", f(s.median()), f(slices.Min(s)), f(slices.Max(s)))
}

// table prints rows as a Markdown table; the first row is the head.
func table(title string, rows [][]string) {
	fmt.Printf("\n### %s\n\n", title)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', 0)
	for i, row := range rows {
		fmt.Fprintf(w, "| %s\t|\n", strings.Join(row, "\t| "))
		if i == 0 {
			fmt.Fprintf(w, "|%s\n", strings.Repeat("---|", len(row)))
		}
	}
	w.Flush()
}
