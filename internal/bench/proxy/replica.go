//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// idHeader has the number of a request, and of the one that is answered.
	idHeader = "X-Bench-Id"

	// workTime is how long a replica takes to answer if it is not told
	// otherwise.
	workTime = 2 * time.Millisecond

	eventPause = 100 * time.Millisecond
)

// runReplica is a backend of the rows in which backends fail: a net/http
// server. It writes the number of every request that it has read to its
// standard output before it answers, so that what it got is known even after
// SIGKILL. Its commands are "delay DURATION" and "sync".
func runReplica() error {
	raiseFiles()
	var delay atomic.Int64
	delay.Store(int64(workTime))
	body := strings.Repeat("x", smallSize)
	mux := http.NewServeMux()
	mux.HandleFunc("/events", events)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(idHeader)
		if _, err := os.Stdout.WriteString("got " + id + "\n"); err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		time.Sleep(time.Duration(delay.Load()))
		w.Header().Set(idHeader, id)
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = io.WriteString(w, body)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	fmt.Printf("ready %s\n", l.Addr())
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), "delay "); ok {
				if d, err := time.ParseDuration(text); err == nil {
					delay.Store(int64(d))
				}
			}
			fmt.Println("ok")
		}
		_ = server.Shutdown(context.Background())
	}()
	return <-failed
}

// events sends the time, again and again, as server-sent events.
func events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	for {
		if _, err := fmt.Fprintf(w, "data: %d\n\n", monotonic()); err != nil {
			return
		}
		if err := control.Flush(); err != nil {
			return
		}
		select {
		case <-time.After(eventPause):
		case <-r.Context().Done():
			return
		}
	}
}

// monotonic returns nanoseconds of a clock that all processes share.
func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// A replica is such a backend, seen from outside.
type replica struct {
	*process
	address string
}

func startReplicas(n int) ([]*replica, error) {
	var all []*replica
	for range n {
		p, err := startSelf("replica")
		if err != nil {
			endReplicas(all)
			return nil, err
		}
		r := &replica{process: p}
		all = append(all, r)
		if r.address, err = p.expect("ready", patience); err != nil {
			endReplicas(all)
			return nil, err
		}
	}
	return all, nil
}

func endReplicas(all []*replica) {
	for _, r := range all {
		r.end()
	}
}

func backendsOf(replicas []*replica) []backend {
	var all []backend
	for _, r := range replicas {
		all = append(all, backend{r.address, 1})
	}
	return all
}

// received returns the numbers of the requests that a replica has read; of one
// that still runs, after it has said that there are no more at the moment.
func (r *replica) received() ([]int, error) {
	select {
	case <-r.exited:
	default:
		if _, err := r.tell("sync"); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []int
	for _, text := range r.got {
		id, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("%s got a request with the number %q", r.name, text)
		}
		ids = append(ids, id)
	}
	return ids, nil
}
