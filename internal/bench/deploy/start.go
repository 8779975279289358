//go:build linux

package main

import (
	"fmt"
	"time"
)

// start measures the time from the start of a deployer to the first successful
// request through the listener.
func (b *bench) start() error {
	type way struct {
		deployer string
		mtls     bool
	}
	ways := []way{{"multi", false}, {"weaver", false}, {"multi", true}, {"weaver", true}}
	rows := [][]string{{"start → first request", "multi", "weaver multi", "multi, mTLS", "weaver multi, mTLS"}}
	for _, app := range []struct{ name, path string }{{"collatz", "/?x=27"}, {"shop", "/api/visit?user=ada"}} {
		took := map[way]sample{}
		for range b.runs {
			for _, w := range ways {
				begin := time.Now()
				s, err := b.deploy(w.deployer, app.name, w.mtls)
				if err != nil {
					return err
				}
				err = answers(s.url(app.path))
				d := time.Since(begin)
				s.end()
				if err != nil {
					return fmt.Errorf("%s with %s: %w", app.name, w.deployer, err)
				}
				took[w] = append(took[w], d)
			}
		}
		row := []string{app.name}
		for _, w := range ways {
			row = append(row, took[w].String())
		}
		rows = append(rows, row)
		ours, theirs, mtls := took[ways[0]].median(), took[ways[1]].median(), took[ways[2]].median()
		b.reach("start → first request, "+app.name, "≤ weaver multi's "+short(theirs), short(ours), ours <= theirs)
		ratio := float64(mtls) / float64(ours)
		b.reach("the same with mTLS", "≤ 1.3 × without", fmt.Sprintf("%.2f ×", ratio), ratio <= 1.3)
	}
	table("Start", rows)
	return nil
}
