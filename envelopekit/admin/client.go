package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
)

// findTime is how long Find waits for answers.
const findTime = 2 * time.Second

// maxError bounds what is read of a refusal.
const maxError = 64 << 10

// A Client talks to the Server of one deployment. It may be used by several
// goroutines.
type Client struct {
	http http.Client
}

// Dial returns a client of the socket at path. It does not connect yet.
func Dial(path string) *Client {
	return &Client{http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}}}
}

// Find returns a client of the deployment in dir whose id begins with the given
// one, or whose application has that name. An empty id finds the only
// deployment there is; if there are several, the error lists them.
func Find(ctx context.Context, dir, id string) (*Client, error) {
	if err := checkOwned(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*"+socketSuffix))
	if err != nil {
		return nil, err
	}
	// Side by side, since one of them may be stopped and never answer.
	type answer struct {
		c    *Client
		st   envelopekit.Status
		err  error
		path string
	}
	answers := make([]answer, len(paths))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, findTime)
			defer cancel()
			c := Dial(path)
			st, err := c.Status(ctx)
			answers[i] = answer{c, st, err, path}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("look for deployments: %w", err)
	}
	var found []*Client
	var names, silent []string
	for _, a := range answers {
		switch {
		case errors.Is(a.err, context.DeadlineExceeded):
			silent = append(silent, strings.TrimSuffix(filepath.Base(a.path), socketSuffix))
		case a.err != nil: // a socket that was left behind
		case id == "" || a.st.App == id || strings.HasPrefix(a.st.Deployment, id) || short(a.st.Deployment) == id:
			found = append(found, a.c)
			names = append(names, fmt.Sprintf("%s (%s, since %s)", short(a.st.Deployment), a.st.App, a.st.Started.Format(time.TimeOnly)))
		}
	}
	if len(found) == 0 && len(silent) > 0 {
		return nil, fmt.Errorf("no deployment has answered within %v; silent: %s", findTime, strings.Join(silent, ", "))
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("several deployments are running, say which: %s", strings.Join(names, ", "))
	case id != "":
		return nil, fmt.Errorf("no deployment %q is running", id)
	default:
		return nil, errors.New("no deployment is running")
	}
}

// Status returns the deployment's status.
func (c *Client) Status(ctx context.Context) (envelopekit.Status, error) {
	var st envelopekit.Status
	body, err := c.do(ctx, "GET", "/status", nil)
	if err != nil {
		return st, err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(&st); err != nil {
		return st, fmt.Errorf("status: %w", err)
	}
	return st, nil
}

// Why explains the state of a group.
func (c *Client) Why(ctx context.Context, group string) (string, error) {
	body, err := c.do(ctx, "GET", "/why", url.Values{"group": {group}})
	if err != nil {
		return "", err
	}
	defer body.Close()
	why, err := io.ReadAll(body)
	return string(why), err
}

// Events yields the deployment's events above after, until ctx or the
// deployment ends.
func (c *Client) Events(ctx context.Context, after uint64) iter.Seq2[envelopekit.Event, error] {
	return func(yield func(envelopekit.Event, error) bool) {
		body, err := c.do(ctx, "GET", "/events", url.Values{"after": {strconv.FormatUint(after, 10)}})
		if err != nil {
			yield(envelopekit.Event{}, err)
			return
		}
		defer body.Close()
		for dec := json.NewDecoder(body); ; {
			var e envelopekit.Event
			switch err := dec.Decode(&e); {
			case errors.Is(err, io.EOF):
				return
			case err != nil:
				yield(e, fmt.Errorf("events: %w", err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Logs copies the last tail lines of the log to w, and with follow those that
// come, until ctx or the deployment ends.
func (c *Client) Logs(ctx context.Context, w io.Writer, tail int, follow bool) error {
	body, err := c.do(ctx, "GET", "/logs", url.Values{"tail": {strconv.Itoa(tail)}, "follow": {strconv.FormatBool(follow)}})
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(w, body); err != nil && ctx.Err() == nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("logs: %w", err)
	}
	return nil
}

// Scale sets the replicas of a group.
func (c *Client) Scale(ctx context.Context, group string, replicas int) error {
	return c.post(ctx, "/scale", url.Values{"group": {group}, "replicas": {strconv.Itoa(replicas)}})
}

// Stop asks the deployment to stop, and returns when it has been asked.
func (c *Client) Stop(ctx context.Context) error { return c.post(ctx, "/stop", nil) }

func (c *Client) post(ctx context.Context, path string, args url.Values) error {
	body, err := c.do(ctx, "POST", path, args)
	if err != nil {
		return err
	}
	return body.Close()
}

// do makes a request and returns the body of its answer, unless that is a
// refusal.
func (c *Client) do(ctx context.Context, method, path string, args url.Values) (io.ReadCloser, error) {
	u := url.URL{Scheme: "http", Host: "deployer", Path: path, RawQuery: args.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && !errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			return nil, fmt.Errorf("the deployer does not answer: %w", op.Err)
		}
		return nil, fmt.Errorf("ask the deployer for %s: %w", strings.TrimPrefix(path, "/"), errors.Unwrap(err))
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxError))
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return resp.Body, nil
}
