//go:build !linux

// Command deploy measures how fast applications are deployed. It needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: this needs Linux, whose /proc tells whose a process is")
	os.Exit(1)
}
