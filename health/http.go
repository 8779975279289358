package health

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// HTTP returns a check that gets a URL. A status from 200 to 399 means ready;
// 429 and 503 mean not ready, by the word of a server that lives; all else is a
// failure. At most 10 KiB of an answer are read.
//
// A nil client means one that opens a connection for each check, as Kubernetes
// does, so that it is accepting that is checked, uses no proxy, and follows no
// redirects.
func HTTP(url string, client *http.Client) CheckFunc {
	if client == nil {
		client = &http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return func(ctx context.Context) (Result, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return Result{}, err
		}
		req.Header.Set("User-Agent", "weaverkit-health")
		resp, err := client.Do(req)
		if err != nil {
			return Result{}, err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 10<<10)); err != nil {
			return Result{}, fmt.Errorf("get %s: %w", url, err)
		}
		switch {
		case resp.StatusCode >= 200 && resp.StatusCode < 400:
			return Result{}, nil
		case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable:
			return Result{NotReady: true, Reason: resp.Status}, nil
		}
		return Result{}, fmt.Errorf("get %s: %s", url, resp.Status)
	}
}
