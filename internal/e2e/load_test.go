//go:build linux

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A load sends requests at a rate, whatever becomes of earlier ones.
type load struct {
	ok     atomic.Int64
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards the following
	failed failures
}

// A failure is a request that was not answered with 200.
type failure struct {
	at  time.Time
	err error
}

type failures []failure

// startLoad sends GET requests to the URL, in which %d is the number of the
// request, until stop.
func startLoad(t *testing.T, url string, rate int) *load {
	t.Helper()
	return startRequests(t, rate, func(ctx context.Context, n int) (*http.Request, error) {
		u := url
		if strings.Contains(u, "%d") {
			u = fmt.Sprintf(u, n)
		}
		return http.NewRequestWithContext(ctx, "GET", u, nil)
	})
}

func startRequests(t *testing.T, rate int, request func(context.Context, int) (*http.Request, error)) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	client := &http.Client{Transport: transport, Timeout: patience}
	l.wg.Go(func() {
		defer transport.CloseIdleConnections()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		var requests sync.WaitGroup
		defer requests.Wait()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			requests.Go(func() {
				// A request that was begun is waited for.
				if err := do(client, request, n); err != nil {
					l.mu.Lock()
					defer l.mu.Unlock()
					l.failed = append(l.failed, failure{time.Now(), err})
					return
				}
				l.ok.Add(1)
			})
		}
	})
	t.Cleanup(func() { l.stop() })
	return l
}

func do(client *http.Client, request func(context.Context, int) (*http.Request, error), n int) error {
	req, err := request(context.Background(), n)
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
		return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// answered waits for that many more requests to be answered.
func (l *load) answered(t *testing.T, n int64) {
	t.Helper()
	want := l.ok.Load() + n
	eventually(t, fmt.Sprintf("%d more requests are answered", n), func() bool { return l.ok.Load() >= want })
}

// stop ends the load, waits for the requests under way, and returns those that
// failed.
func (l *load) stop() failures {
	l.cancel()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// without returns the failures for other reasons than target.
func (f failures) without(target error) failures {
	var rest failures
	for _, x := range f {
		if !errors.Is(x.err, target) {
			rest = append(rest, x)
		}
	}
	return rest
}

func (f failures) String() string {
	var lines []string
	for _, x := range f[:min(len(f), 5)] {
		lines = append(lines, fmt.Sprintf("%s %v", x.at.Format("15:04:05.000"), x.err))
	}
	return fmt.Sprintf("%d: %s", len(f), strings.Join(lines, "; "))
}

// refused is the error of a connection to a port where nobody listens.
const refused = syscall.ECONNREFUSED
