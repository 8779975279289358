package main

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxInFlight is how many requests of a load may be under way; what comes on
// top is not sent, and counts as failed.
const maxInFlight = 512

// A load is requests of our own, so that there is something to see.
type load struct {
	rate   int
	path   string // %d is the number of the request
	ok     atomic.Uint64
	failed atomic.Uint64
}

// run sends requests to the address until ctx ends, at the rate, whatever
// becomes of earlier ones, and waits for those under way.
func (l *load) run(ctx context.Context, address string) {
	transport := &http.Transport{MaxIdleConnsPerHost: maxInFlight}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	var requests sync.WaitGroup
	defer requests.Wait()
	slots := make(chan struct{}, maxInFlight)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	begin := time.Now()
	for n := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		due := int(time.Since(begin).Seconds() * float64(l.rate))
		for ; n < due; n++ {
			select {
			case slots <- struct{}{}:
			default:
				l.failed.Add(1)
				continue
			}
			url := "http://" + address + strings.ReplaceAll(l.path, "%d", strconv.Itoa(n))
			requests.Go(func() {
				defer func() { <-slots }()
				if get(client, url) {
					l.ok.Add(1)
				} else {
					l.failed.Add(1)
				}
			})
		}
	}
}

func get(client *http.Client, url string) bool {
	resp, err := client.Get(url)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode < 500
}
