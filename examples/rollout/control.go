package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weaverkit/weaverkit/rollout"
)

// A submission is what "rollout submit" sends.
type submission struct {
	Version string
	File    string  // a configuration or binary; "" for the sample
	Errors  float64 // the sample's: percent of requests that fail
	Plan    planSpec
}

// serveControl answers the commands of other processes of the user until ctx
// ends, and closes l. The protocol is HTTP, so that curl --unix-socket will do.
func (d *deployment) serveControl(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	command := func(name string, f func(*http.Request) error) {
		mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
			if err := f(r); err != nil {
				status := http.StatusBadRequest
				if errors.Is(err, rollout.ErrRefused) {
					status = http.StatusConflict
				}
				http.Error(w, err.Error(), status)
			}
		})
	}
	command("submit", func(r *http.Request) error {
		var s submission
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&s); err != nil {
			return fmt.Errorf("submit: %w", err)
		}
		return d.submit(r.Context(), s)
	})
	// Those that say where the rollout must stand do nothing to another.
	about := func(name string, f func(*http.Request, rollout.At) error) {
		command(name, func(r *http.Request) error {
			var at rollout.At
			if text := r.FormValue("at"); text != "" {
				if err := json.Unmarshal([]byte(text), &at); err != nil {
					return fmt.Errorf("%s: at: %w", name, err)
				}
			}
			return f(r, at)
		})
	}
	about("pause", func(r *http.Request, at rollout.At) error {
		return d.runner.Pause(r.Context(), r.FormValue("reason"), at)
	})
	about("resume", func(r *http.Request, at rollout.At) error { return d.runner.Resume(r.Context(), at) })
	about("promote", func(r *http.Request, at rollout.At) error { return d.runner.Promote(r.Context(), at) })
	about("abort", func(r *http.Request, at rollout.At) error {
		return d.runner.Abort(r.Context(), r.FormValue("reason"), at)
	})
	about("retry", func(r *http.Request, at rollout.At) error { return d.runner.Retry(r.Context(), at) })
	command("stop", func(*http.Request) error { d.ask(); return nil })
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(d.status()) // its error is that the client has left
	})
	mux.HandleFunc("GET /events", d.serveEvents)

	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	}()
	err := server.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		<-closed
		return nil
	}
	return fmt.Errorf("serve %s: %w", l.Addr(), err)
}

// serveEvents sends the events after a number, one JSON object a line: those
// there are and, unless follow is false, those that come.
func (d *deployment) serveEvents(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.FormValue("after"), 10, 64)
	if err != nil && r.FormValue("after") != "" {
		http.Error(w, "after must be the number of an event", http.StatusBadRequest)
		return
	}
	newest := uint64(1<<64 - 1)
	if r.FormValue("follow") == "false" {
		ctx, cancel := context.WithTimeout(r.Context(), answerTime/2) // while the client waits
		defer cancel()
		recorded, err := d.runner.State(ctx) // others do not come before they are recorded
		if err != nil {
			http.Error(w, "the events are not there: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		newest = recorded.EventSeq
	}
	if after >= newest {
		return
	}
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	for e := range d.runner.Events(r.Context(), after) {
		if enc.Encode(e) != nil || flush.Flush() != nil || e.Seq >= newest {
			return
		}
	}
}

// A client talks to the deployer.
type client struct{ http http.Client }

// connect finds the deployer that runs with the state directory.
func connect(dir string) (*client, error) {
	sockets, err := filepath.Glob(filepath.Join(dir, "*.sock"))
	if err != nil {
		return nil, err
	}
	for _, path := range sockets {
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return &client{http.Client{Transport: &http.Transport{
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "unix", path)
				},
				DisableKeepAlives: true,
			}}}, nil
		}
	}
	return nil, fmt.Errorf("no deployer runs with the state directory %s: start one with rollout deploy, or name another with -state", dir)
}

// do makes a request and returns the body of its answer, unless that is a
// refusal.
func (c *client) do(ctx context.Context, method, path string, args url.Values, body any) (io.ReadCloser, error) {
	var sent bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&sent).Encode(body); err != nil {
			return nil, err
		}
	}
	u := url.URL{Scheme: "http", Host: "deployer", Path: path, RawQuery: args.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), &sent)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the deployer for %s: %w", strings.TrimPrefix(path, "/"), errors.Unwrap(err))
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return resp.Body, nil
}

// command sends a command.
func (c *client) command(ctx context.Context, name string, args url.Values, body any) error {
	b, err := c.do(ctx, "POST", "/"+name, args, body)
	if err != nil {
		return err
	}
	return b.Close()
}

func (c *client) status(ctx context.Context) (st status, err error) {
	b, err := c.do(ctx, "GET", "/status", nil, nil)
	if err != nil {
		return st, err
	}
	defer b.Close()
	return st, json.NewDecoder(b).Decode(&st)
}

// events calls f for events until it returns false or there are no more.
func (c *client) events(ctx context.Context, after uint64, follow bool, f func(rollout.Event) bool) error {
	b, err := c.do(ctx, "GET", "/events", url.Values{"after": {strconv.FormatUint(after, 10)}, "follow": {strconv.FormatBool(follow)}}, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	for dec := json.NewDecoder(b); ; {
		var e rollout.Event
		switch err := dec.Decode(&e); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("events: %w", err)
		case !f(e):
			return nil
		}
	}
}
