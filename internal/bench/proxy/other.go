//go:build !linux

// Command proxy measures package proxy. It needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: this needs Linux, whose /proc and epoll it uses")
	os.Exit(1)
}
