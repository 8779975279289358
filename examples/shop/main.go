// Shop is a small Service Weaver application to deploy, watch and hurt: a web
// shop for hand-woven cloth, made of a main component and seven others.
//
//	main ──┬─> Catalog <────────┬─────────┐
//	       ├─> Inventory <──────┤         │
//	       ├─> Cart (routed) <──┤         │
//	       ├─> Checkout ────────┼─> Payment
//	       ├─> Stats <──────────┘         │
//	       └─> Recommender ───────────────┘
//
// Its pages tell which build and which replicas answered, so that placement,
// routing, failures and rollouts can be seen in a browser. README.md lists the
// endpoints and the misbehaviour that the configuration can switch on.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/ServiceWeaver/weaver"
)

//go:generate go tool -modfile=../../tools/go.mod weaver generate .

const (
	requestTimeout = 10 * time.Second // for a whole request, all its calls included
	drainTimeout   = time.Second      // for the requests in flight at Shutdown
)

func main() {
	if err := weaver.Run(context.Background(), serve); err != nil {
		log.Fatal(err)
	}
}

// shop is the main component: the web server.
type shop struct {
	weaver.Implements[weaver.Main]
	weaver.WithConfig[shopConfig]

	catalog     weaver.Ref[Catalog]
	inventory   weaver.Ref[Inventory]
	cart        weaver.Ref[Cart]
	checkout    weaver.Ref[Checkout]
	recommender weaver.Ref[Recommender]
	stats       weaver.Ref[Stats]

	listener weaver.Listener `weaver:"shop"`

	server *http.Server
}

// shopConfig is main's section of the configuration file,
// ["github.com/ServiceWeaver/weaver/Main"]. The faults hit pages and API, not
// the health check.
type shopConfig struct {
	Faults

	// Unhealthy makes the health check answer 503, once After is over.
	Unhealthy bool `toml:"unhealthy"`

	// DebugEndpoints serves /debug/shop/slow and /debug/shop/fail.
	DebugEndpoints bool `toml:"debug_endpoints"`
}

// Init prepares the server; serve runs it.
func (s *shop) Init(context.Context) error {
	s.server = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: requestTimeout,
	}
	return nil
}

// serve answers requests until the process is told to end.
func serve(ctx context.Context, s *shop) error {
	s.Logger(ctx).Info("The shop is open", "version", buildVersion(), "address", s.listener.String())
	err := s.server.Serve(s.listener)
	if errors.Is(err, http.ErrServerClosed) {
		// Returning would end the process, and with it the requests in flight.
		// The runtime ends it when all components here are shut down.
		<-ctx.Done()
		return nil
	}
	return fmt.Errorf("serve shop: %w", err)
}

// Shutdown stops taking requests and waits, briefly, for those in flight.
func (s *shop) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := s.server.Shutdown(ctx); err != nil {
		return fmt.Errorf("drain shop: %w", err)
	}
	return nil
}
