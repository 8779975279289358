// Misfit is an application that misbehaves as the environment variable MISFIT
// says, to see what its deployer does about it. Without it, it behaves.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/ServiceWeaver/weaver"
)

//go:generate go tool -modfile=../../../tools/go.mod weaver generate .

// The values of MISFIT.
const (
	exitAtStart = "exit at start" // before it becomes a weavelet
	quitAtStart = "quit at start" // the same, with status 0
	muteAtStart = "mute at start" // it never becomes a weavelet
	failInit    = "fail init"     // Init of the helper returns an error
	panicInit   = "panic init"    // Init of the helper panics
	blockInit   = "block init"    // Init of the helper does not return
	blockStop   = "block stop"    // Shutdown of the helper does not return
	failMain    = "fail main"     // the main function returns an error
	endMain     = "end main"      // the main function returns
	neverAnswer = "never answer"  // requests are accepted, and that is all
	shout       = "shout"         // a line of 20 MB, then many short ones
)

var misfit = os.Getenv("MISFIT")

func main() {
	switch misfit {
	case exitAtStart:
		fmt.Println("misfit: looking for the database")
		fmt.Fprintln(os.Stderr, "misfit: no database at db:5432")
		os.Exit(3)
	case quitAtStart:
		fmt.Println("misfit: nothing to do")
		os.Exit(0)
	case muteAtStart:
		select {}
	}
	if err := weaver.Run(context.Background(), serve); err != nil {
		log.Fatal(err)
	}
}

// Helper is a component to be in need of.
type Helper interface {
	Ping(context.Context) (int, error)
}

type helper struct {
	weaver.Implements[Helper]
}

func (h *helper) Init(context.Context) error {
	switch misfit {
	case failInit:
		return errors.New("no licence for a helper")
	case panicInit:
		panic("the helper is beside itself")
	case blockInit:
		select {}
	}
	return nil
}

// Ping returns the helper's process id.
func (h *helper) Ping(context.Context) (int, error) { return os.Getpid(), nil }

// Shutdown is called when the process gets SIGTERM.
func (h *helper) Shutdown(context.Context) error {
	if misfit == blockStop {
		select {}
	}
	return nil
}

type app struct {
	weaver.Implements[weaver.Main]
	helper   weaver.Ref[Helper]
	listener weaver.Listener `weaver:"misfit"`
}

func serve(_ context.Context, a *app) error {
	switch misfit {
	case failMain:
		return errors.New("main does not want to")
	case endMain:
		fmt.Println("misfit: done")
		return nil
	case shout:
		fmt.Println(strings.Repeat("A", 20<<20))
		for i := range 100_000 {
			fmt.Println("misfit: line", i)
		}
	}
	server := &http.Server{}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/end" { // the main function returns
			go server.Shutdown(context.Background())
			return
		}
		if misfit == neverAnswer {
			<-r.Context().Done()
			return
		}
		pid, err := a.helper.Get().Ping(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, pid)
	})
	if err := server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
