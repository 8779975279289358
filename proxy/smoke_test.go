package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

func TestSmoke(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			w.Write(big)
		case "/chunked":
			for range 10 {
				w.Write(big[:10000])
				w.(http.Flusher).Flush()
			}
		case "/echo":
			http.NewResponseController(w).EnableFullDuplex()
			io.Copy(w, r.Body)
		default:
			fmt.Fprintf(w, "%s %s %v", r.Method, r.URL, r.Header)
		}
	}))
	defer backend.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f, err := proxy.Start(l, proxy.Options{ErrorLog: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	require.NoError(t, err)
	f.SetBackends([]string{backend.Listener.Addr().String()})
	url := "http://" + f.Addr()
	for range 3 {
		resp, err := http.Get(url + "/x?y=1")
		require.NoError(t, err)
		b, _ := io.ReadAll(resp.Body)
		t.Log(resp.Status, resp.Header, string(b))
		resp, err = http.Get(url + "/big")
		require.NoError(t, err)
		b, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, len(big), len(b))
		resp, err = http.Get(url + "/chunked")
		require.NoError(t, err)
		b, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, 100000, len(b))
		resp, err = http.Post(url+"/echo", "text/plain", bytes.NewReader(big))
		require.NoError(t, err)
		b, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, len(big), len(b))
		resp, err = http.Post(url+"/echo", "text/plain", strings.NewReader("hallo"))
		require.NoError(t, err)
		b, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "hallo", string(b))
		resp, err = http.Post(url+"/echo", "text/plain", io.MultiReader(strings.NewReader("chunked")))
		require.NoError(t, err)
		b, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "chunked", string(b))
	}
	t.Logf("%+v", f.Proxy().Status().Pools[0].Backends[0].InFlight)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	require.NoError(t, f.Close(ctx))
}
