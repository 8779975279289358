package main

import (
	"context"
	"os"
	"time"
)

// readKeys passes on the keys that are pressed until ctx ends, each at once if
// the platform can do that, else after return. restore gives the terminal back.
// The goroutine that reads ends with the process: a read of a terminal cannot
// be ended everywhere.
func readKeys(ctx context.Context) (keys <-chan byte, restore func()) {
	c := make(chan byte)
	if !isTerminal(os.Stdin) || !foreground(os.Stdin) {
		return c, func() {}
	}
	restore = immediate(os.Stdin)
	go func() {
		b := make([]byte, 1)
		for {
			switch n, err := os.Stdin.Read(b); {
			case err != nil:
				return
			case n == 0:
				time.Sleep(100 * time.Millisecond)
			default:
				select {
				case c <- b[0]:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return c, restore
}
