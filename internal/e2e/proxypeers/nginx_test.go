package proxypeers_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// startNginx starts nginx as a backend: of files, of what it says itself, and
// before an echo of ours, so that it makes chunks of its own. It returns its
// address.
func startNginx(t *testing.T, files, echo string) string {
	t.Helper()
	path := program(t, "nginx")
	l := listen(t)
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	config := fmt.Sprintf(`
daemon off;
worker_processes 1;
pid %[1]s/pid;
error_log stderr crit;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	client_max_body_size 100m;
	keepalive_requests 50;
	keepalive_timeout 1s;
	types { text/plain txt; }
	gzip on;
	gzip_types text/plain;
	server {
		listen %[2]s;
		location / { root %[3]s; }
		location = /hello { return 200 "hello $http_x_forwarded_for $http_connection"; }
		location = /nothing { return 204; }
		location = /close { keepalive_timeout 0; return 200 "closing"; }
		location = /echo { proxy_pass http://%[4]s; proxy_http_version 1.1; proxy_request_buffering off; }
		location = /small { client_max_body_size 1k; return 200 "small"; }
	}
}
`, dir, addr, files, echo)
	conf := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(conf, []byte(config), 0o600))
	cmd := exec.Command(path, "-p", dir, "-c", conf, "-e", "stderr")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("nginx: %s", out.String())
		}
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}, patience, 10*time.Millisecond, "nginx does not come up")
	return addr
}

func TestNginx(t *testing.T) {
	files := t.TempDir()
	for dir := files; len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755)) // its workers are of another user
	}
	big := bytes.Repeat([]byte("weaver "), 1_000_000)
	require.NoError(t, os.WriteFile(filepath.Join(files, "big.bin"), big, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(files, "text.txt"), big[:100_000], 0o644))
	echo := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body) // nginx cannot pass both ways at once
		if err == nil {
			_, _ = w.Write(b) // nginx tells
		}
	}))
	f := serve(t, proxy.Options{}, startNginx(t, files, echo))
	for _, via := range []struct {
		name, url string
		http2     bool
	}{
		{"HTTP1", "http://" + f.plain, false},
		{"h2c", "http://" + f.plain, true},
		{"TLS, HTTP1", "https://" + f.tls, false},
		{"TLS, h2", "https://" + f.tls, true},
	} {
		t.Run(via.name, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: tlsConfig(), Protocols: new(http.Protocols), DisableCompression: true}
			transport.Protocols.SetHTTP1(!via.http2)
			transport.Protocols.SetHTTP2(via.http2)
			transport.Protocols.SetUnencryptedHTTP2(via.http2)
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: patience}
			do := func(method, path string, body io.Reader, header ...string) (*http.Response, []byte) {
				t.Helper()
				r, err := http.NewRequest(method, via.url+path, body)
				require.NoError(t, err)
				for i := 0; i < len(header); i += 2 {
					r.Header.Set(header[i], header[i+1])
				}
				resp, err := client.Do(r)
				require.NoError(t, err)
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				return resp, got
			}
			for range 120 { // nginx ends the connection every 50
				resp, got := do("GET", "/hello", nil)
				require.Equal(t, 200, resp.StatusCode)
				require.Contains(t, string(got), "hello 127.0.0.1")
			}
			for range 5 {
				_, got := do("GET", "/close", nil)
				require.Equal(t, "closing", string(got))
				_, got = do("POST", "/close", strings.NewReader("x"))
				require.Equal(t, "closing", string(got))
			}
			resp, _ := do("DELETE", "/nothing", nil)
			require.Equal(t, 204, resp.StatusCode)
			resp, got := do("GET", "/big.bin", nil)
			require.Equal(t, 200, resp.StatusCode)
			require.Equal(t, sha256.Sum256(big), sha256.Sum256(got))
			resp, _ = do("HEAD", "/big.bin", nil)
			require.Equal(t, int64(len(big)), resp.ContentLength)
			resp, _ = do("GET", "/big.bin", nil, "If-None-Match", resp.Header.Get("Etag"))
			require.Equal(t, 304, resp.StatusCode)
			resp, got = do("GET", "/big.bin", nil, "Range", "bytes=7-13")
			require.Equal(t, 206, resp.StatusCode)
			require.Equal(t, "weaver ", string(got))
			resp, got = do("GET", "/text.txt", nil, "Accept-Encoding", "gzip")
			require.Equal(t, "gzip", resp.Header.Get("Content-Encoding"))
			require.NotEmpty(t, got)
			resp, _ = do("GET", "/none", nil)
			require.Equal(t, 404, resp.StatusCode)
			for _, n := range []int{0, 1, 20_000, len(big)} {
				_, got = do("POST", "/echo", bytes.NewReader(big[:n]))
				require.Equal(t, sha256.Sum256(big[:n]), sha256.Sum256(got))
				_, got = do("POST", "/echo", io.MultiReader(bytes.NewReader(big[:n])))
				require.Equal(t, sha256.Sum256(big[:n]), sha256.Sum256(got))
			}
			// nginx answers before it has the body, and closes.
			resp, _ = do("POST", "/small", bytes.NewReader(big[:10_000]))
			require.Equal(t, 413, resp.StatusCode)
			// It has closed what was idle.
			time.Sleep(1200 * time.Millisecond)
			resp, _ = do("POST", "/close", strings.NewReader("x"))
			require.Equal(t, 200, resp.StatusCode)
		})
	}
}
