// Command simple is the smallest deployer: it runs every component of a
// Service Weaver binary in a process of its own, until ctrl-C.
//
//	simple ./collatz
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/weaverkit/weaverkit/envelopekit"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: simple BINARY")
	}
	app, err := envelopekit.LoadBinary(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	d, err := envelopekit.New(app, envelopekit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := make(chan error)
	go func() { run <- d.Run(ctx) }()
	for event := range d.Events(context.Background(), 0) { // until it has stopped
		fmt.Println(event)
	}
	if err := <-run; err != nil {
		log.Fatal(err)
	}
}
