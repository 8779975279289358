package main

import (
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/health"
)

// A proxy that can accept nothing any more is no reason to go on as if it did.
func TestListenerFails(t *testing.T) {
	prober, err := health.New(health.Options{})
	require.NoError(t, err)
	f := frontends{problems: slog.New(slog.NewTextHandler(io.Discard, nil)), prober: prober, failed: make(chan error, 1)}
	var fronts []*frontend
	var listeners []net.Listener
	for _, name := range []string{"one", "two", "three"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		front, err := f.serve(name, l)
		require.NoError(t, err)
		fronts, listeners = append(fronts, front), append(listeners, l)
	}
	listeners[0].Close()
	select {
	case err := <-f.failed:
		assert.ErrorContains(t, err, "listener one accepts no connections any more: ")
		assert.ErrorIs(t, err, net.ErrClosed)
	case <-time.After(30 * time.Second):
		t.Error("nobody is told")
	}
	listeners[1].Close()
	<-fronts[1].Done()
	for _, front := range fronts {
		_ = front.Close(t.Context()) // its error is known
	}
	f.watching.Wait()
	select {
	case err := <-f.failed:
		assert.ErrorContains(t, err, "listener two", "a listener that is closed has not failed")
	default:
		t.Error("nobody is told of the second")
	}
}
