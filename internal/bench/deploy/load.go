//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A load sends requests at a rate, whatever becomes of earlier ones.
type load struct {
	sent, ok, inFlight atomic.Int64
	cancel             context.CancelFunc
	wg                 sync.WaitGroup

	mu     sync.Mutex // guards the following
	failed []failure
	took   sample
}

type failure struct {
	began, at time.Time
	err       error
}

// startLoad sends requests of the given method to url(n), n = 0, 1, 2 …
func startLoad(method string, url func(n int) string, rate int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	client := &http.Client{Transport: transport, Timeout: 15 * time.Second}
	l.wg.Go(func() {
		defer transport.CloseIdleConnections()
		var requests sync.WaitGroup
		defer requests.Wait()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			l.sent.Add(1)
			l.inFlight.Add(1)
			requests.Go(func() {
				defer l.inFlight.Add(-1)
				begin := time.Now()
				err := request(client, method, url(n))
				l.mu.Lock()
				defer l.mu.Unlock()
				if err != nil {
					l.failed = append(l.failed, failure{begin, time.Now(), err})
					return
				}
				l.ok.Add(1)
				l.took = append(l.took, time.Since(begin))
			})
		}
	})
	return l
}

func request(client *http.Client, method, url string) error {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return nil
}

// answered waits until n more requests were answered, or fails.
func (l *load) answered(n int64) error {
	want := l.ok.Load() + n
	for deadline := time.Now().Add(patience); l.ok.Load() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("requests are not answered")
		}
	}
	return nil
}

// stop ends the load and waits for the requests under way.
func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}
