//go:build unix

package admin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/envelopekit"
	"github.com/weaverkit/weaverkit/envelopekit/admin"
	"github.com/weaverkit/weaverkit/envelopekit/envelopetest"
	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// serve runs a deployment of scripted weavelets with an admin socket in dir.
func serve(t *testing.T, dir, app string) *envelopekit.Deployment {
	t.Helper()
	calls := []placement.Edge{{From: placement.Main, To: app + "/Cart"}}
	d, err := envelopekit.New(envelopetest.App(app, calls...), envelopekit.Options{Launcher: &envelopetest.Launcher{Calls: calls}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	run := make(chan error, 1)
	go func() { run <- d.Run(ctx) }()

	l, err := admin.Listen(dir, d.ID())
	require.NoError(t, err)
	s := admin.Server{
		Deployment: d,
		Stop:       cancel,
		Logs: func(ctx context.Context, w io.Writer, tail int, follow bool) error {
			for i := range tail {
				if _, err := fmt.Fprintf(w, "line %d\n", i); err != nil {
					return err
				}
			}
			if follow {
				<-ctx.Done()
			}
			return ctx.Err()
		},
	}
	serveCtx, stopServing := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(serveCtx, l) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-run)
		stopServing()
		assert.NoError(t, <-served)
		_, err := os.Lstat(l.Addr().String())
		assert.ErrorIs(t, err, os.ErrNotExist, "Serve removes the socket")
	})
	return d
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wka")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "sockets")
}

func TestClient(t *testing.T) {
	dir := shortDir(t)
	d := serve(t, dir, "shop")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := admin.Find(ctx, dir, "")
	require.NoError(t, err)

	require.NoError(t, c.Scale(ctx, "shop.Cart", 3))
	var seen []envelopekit.Event
	for e, err := range c.Events(ctx, 0) {
		require.NoError(t, err)
		seen = append(seen, e)
		st, err := c.Status(ctx)
		require.NoError(t, err)
		if st.Ready() {
			assert.Equal(t, d.ID(), st.Deployment)
			assert.Equal(t, 3, st.Groups[1].Serving())
			break
		}
	}
	for i, e := range seen {
		assert.EqualValues(t, i+1, e.Seq)
	}
	for e, err := range c.Events(ctx, 2) {
		require.NoError(t, err)
		assert.EqualValues(t, 3, e.Seq, "reading goes on where it left off")
		break
	}

	why, err := c.Why(ctx, "shop.Cart")
	require.NoError(t, err)
	assert.Contains(t, why, "3 of 3 replicas serve")
	_, err = c.Why(ctx, "shop.Crat")
	assert.ErrorContains(t, err, `no group "shop.Crat"`)
	assert.ErrorContains(t, c.Scale(ctx, "shop.Crat", 1), `no group "shop.Crat"`)
	assert.ErrorContains(t, c.Scale(ctx, "shop.Cart", -3), "between 0 and 1000")

	var log bytes.Buffer
	require.NoError(t, c.Logs(ctx, &log, 3, false))
	assert.Equal(t, "line 0\nline 1\nline 2\n", log.String())
	following, stop := context.WithCancel(ctx)
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- c.Logs(following, w, 1, true) }()
	line := make([]byte, 7)
	_, err = io.ReadFull(r, line)
	require.NoError(t, err)
	assert.Equal(t, "line 0\n", string(line), "lines come at once")
	stop()
	require.NoError(t, <-done)

	require.NoError(t, c.Stop(ctx))
	for _, err := range c.Events(ctx, 0) { // they end with the deployment
		require.NoError(t, err)
	}
	assert.True(t, d.Status().Stopping)
}

func TestFind(t *testing.T) {
	dir := shortDir(t)
	ctx := t.Context()
	_, err := admin.Find(ctx, dir, "")
	assert.EqualError(t, err, "no deployment is running")
	shop := serve(t, dir, "shop")
	mail := serve(t, dir, "mail")
	_, err = admin.Find(ctx, dir, "")
	require.ErrorContains(t, err, "several deployments are running, say which: ")
	assert.ErrorContains(t, err, shop.ID()[:8]+" (shop")
	assert.ErrorContains(t, err, mail.ID()[:8]+" (mail")
	for _, id := range []string{"mail", mail.ID(), mail.ID()[:5]} {
		c, err := admin.Find(ctx, dir, id)
		require.NoError(t, err, id)
		st, err := c.Status(ctx)
		require.NoError(t, err)
		assert.Equal(t, "mail", st.App)
	}
	_, err = admin.Find(ctx, dir, "bank")
	assert.EqualError(t, err, `no deployment "bank" is running`)
}

// The socket gives full control to whoever can open it.
func TestOnlyTheUserGetsIn(t *testing.T) {
	dir := shortDir(t)
	d := serve(t, dir, "shop")
	info, err := os.Stat(dir)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	info, err = os.Stat(filepath.Join(dir, d.ID()[:8]+".sock"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	open := shortDir(t)
	require.NoError(t, os.Mkdir(open, 0o700))
	require.NoError(t, os.Chmod(open, 0o755))
	_, err = admin.Listen(open, "id")
	assert.ErrorContains(t, err, "is not a directory that only you can use")
	_, err = admin.Find(t.Context(), open, "")
	assert.ErrorContains(t, err, "is not a directory that only you can use")
	link := shortDir(t)
	require.NoError(t, os.Symlink(dir, link))
	_, err = admin.Listen(link, "id")
	assert.ErrorContains(t, err, "is not a directory that only you can use")
}

func TestSocketsOfTheDeadAreRemoved(t *testing.T) {
	dir := shortDir(t)
	require.NoError(t, os.Mkdir(dir, 0o700))
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false) // as if it had been killed
	l.Close()
	_, err = admin.Find(t.Context(), dir, "")
	require.EqualError(t, err, "no deployment is running")

	l2, err := admin.Listen(dir, "alive")
	require.NoError(t, err)
	defer l2.Close()
	_, err = os.Lstat(dead)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestLongPath(t *testing.T) {
	_, err := admin.Listen(filepath.Join(t.TempDir(), strings.Repeat("x", 100)), "id")
	assert.ErrorContains(t, err, "choose a shorter directory")
}

func TestDeployerThatDied(t *testing.T) {
	_, err := admin.Dial(filepath.Join(t.TempDir(), "nobody.sock")).Status(t.Context())
	require.Error(t, err)
	assert.ErrorContains(t, err, "the deployer does not answer")
	assert.True(t, errors.Is(err, os.ErrNotExist))
}
