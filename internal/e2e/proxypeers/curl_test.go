package proxypeers_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// curl runs curl, and returns what it prints: the body, and after it the line
// that -w asks for.
func curl(t *testing.T, args ...string) string {
	t.Helper()
	ca := write(t, "ca.pem", caPEM)
	args = append([]string{"-sS", "--max-time", "20", "--cacert", ca, "-w", "\n%{http_code} %{http_version} %{num_connects}\n"}, args...)
	out, err := exec.CommandContext(within(t, 2*patience), program(t, "curl"), args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestCurl(t *testing.T) {
	big := make([]byte, 5<<20)
	for i := range big {
		big[i] = byte(i * 7 >> 3)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(big))
	f := serve(t, proxy.Options{}, backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			_, _ = w.Write(big) // curl tells
		case "/chunked":
			for i := 0; i < len(big); i += 100_000 {
				_, _ = w.Write(big[i:min(i+100_000, len(big))]) // curl tells
				_ = http.NewResponseController(w).Flush()
			}
		case "/sum":
			h := sha256.New()
			_, err := io.Copy(h, r.Body)
			assert.NoError(t, err)
			fmt.Fprintf(w, "%x", h.Sum(nil))
		case "/hints":
			w.Header().Set("Link", "</a.css>")
			w.WriteHeader(http.StatusEarlyHints)
			fmt.Fprint(w, "done")
		case "/refuse":
			w.WriteHeader(http.StatusForbidden)
		default:
			fmt.Fprintf(w, "%s %s %s", r.Method, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"))
		}
	})))
	file := write(t, "big", big)
	for _, via := range []struct {
		name, url, version string
		flags              []string
	}{
		{"HTTP1", "http://" + f.plain, "1.1", []string{"--http1.1"}},
		{"h2c", "http://" + f.plain, "2", []string{"--http2-prior-knowledge"}},
		{"h2c by Upgrade, which stays HTTP1", "http://" + f.plain, "1.1", []string{"--http2"}},
		{"TLS, HTTP1", "https://" + f.tls, "1.1", []string{"--http1.1"}},
		{"TLS, h2", "https://" + f.tls, "2", []string{"--http2"}},
		{"HTTP1.0", "http://" + f.plain, "1", []string{"--http1.0"}},
	} {
		t.Run(via.name, func(t *testing.T) {
			program(t, "curl")
			run := func(args ...string) string { return curl(t, append(via.flags, args...)...) }
			scheme, _, _ := strings.Cut(via.url, ":")
			last := "200 " + via.version + " 1\n"

			require.Equal(t, "GET "+scheme+" 127.0.0.1\n"+last, run(via.url+"/"))
			// A second URL goes over the same connection. (curl 7.88 fails to do
			// that with prior knowledge, whoever the server is.)
			if via.name != "HTTP1.0" && via.name != "h2c" {
				require.Equal(t, "GET "+scheme+" 127.0.0.1\n"+last+"GET "+scheme+" 127.0.0.1\n200 "+via.version+" 0\n", run(via.url+"/", via.url+"/"))
			}
			require.Equal(t, "DELETE "+scheme+" 127.0.0.1\n"+last, run("-X", "DELETE", via.url+"/"))
			require.Contains(t, run("-I", via.url+"/big"), fmt.Sprint(len(big)))
			for _, path := range []string{"/big", "/chunked"} {
				out := write(t, "out", nil)
				run("-o", out, via.url+path)
				got, err := os.ReadFile(out)
				require.NoError(t, err)
				require.Equal(t, sum, fmt.Sprintf("%x", sha256.Sum256(got)))
			}
			require.Equal(t, sum+"\n"+last, run("--data-binary", "@"+file, via.url+"/sum"), "which waits for 100 Continue")
			require.Equal(t, sum+"\n"+last, run("-H", "Expect:", "-T", file, via.url+"/sum"))
			if via.name != "HTTP1.0" {
				require.Equal(t, sum+"\n"+last, run("-H", "Transfer-Encoding: chunked", "--data-binary", "@"+file, via.url+"/sum"))
				require.Contains(t, run("-v", via.url+"/hints"), "103")
			}
			require.Contains(t, run("-d", "x", via.url+"/refuse"), "403")
		})
	}
}
