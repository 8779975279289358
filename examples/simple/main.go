// Command simple is the smallest deployer: it runs every component of a
// Service Weaver binary in a process of its own until ctrl-C.
//
//	simple ./collatz
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/weaverkit/weaverkit/envelopekit"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: simple BINARY")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary string) error {
	app, err := envelopekit.LoadBinary(binary)
	if err != nil {
		return err
	}
	d, err := envelopekit.New(app, envelopekit.Options{})
	if err != nil {
		return err
	}
	go func() {
		for event := range d.Events(context.Background(), 0) {
			fmt.Println(event)
		}
	}()
	return d.Run(ctx)
}
