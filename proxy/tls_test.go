package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// newCertificate returns a certificate for 127.0.0.1 and its key, as PEM.
func newCertificate(t testing.TB, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: "proxy"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true,

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	pkcs, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs})
}

// certificateFiles writes a certificate with that serial number to files.
func certificateFiles(t testing.TB, dir string, serial int64) (cert, key string) {
	t.Helper()
	certPEM, keyPEM := newCertificate(t, serial)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, certPEM, 0o600))
	require.NoError(t, os.WriteFile(key, keyPEM, 0o600))
	return cert, key
}

func getCertificate(t testing.TB) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	t.Helper()
	get, err := proxy.CertificateFiles(certificateFiles(t, t.TempDir(), 1))
	require.NoError(t, err)
	return get
}

// tlsClient is a client for a proxy with TLS.
func tlsClient(t testing.TB, h2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: longest}
}

func TestTLS(t *testing.T) {
	o := newOrigin(t, "", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Proto", r.Header.Get("X-Forwarded-Proto"))
		w.Write(b)
	})
	r := newRig(t, proxy.Options{GetCertificate: getCertificate(t)}, o.addr)
	for _, h2 := range []bool{false, true} {
		c := tlsClient(t, h2)
		for _, size := range bodies {
			for _, te := range []string{"", "trailers"} {
				body := strings.Repeat("x", size)
				req, err := http.NewRequest("POST", "https://"+r.addr, strings.NewReader(body))
				require.NoError(t, err)
				if te != "" {
					req.Header.Set("Te", te)
				}
				resp, err := c.Do(req)
				require.NoError(t, err)
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				require.NoError(t, err)
				require.Equal(t, body, string(b))
				require.Equal(t, h2, resp.ProtoMajor == 2)
				require.Equal(t, "https", resp.Header.Get("Proto"))
			}
		}
	}
	plain := fastWay.client(t)
	_, err := fetch(plain, "GET", "http://"+r.addr, "")
	require.Error(t, err, "plaintext is none")
}

func TestTLSVersions(t *testing.T) {
	r := newRig(t, proxy.Options{GetCertificate: getCertificate(t)}, newOrigin(t, "it", nil).addr)
	for version, good := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		if err == nil {
			c.Close()
		}
		assert.Equal(t, good, err == nil, "%x: %v", version, err)
	}
}

// TestTLSBad: handshakes that fail do no harm, and those that do not end are
// ended.
func TestTLSBad(t *testing.T) {
	get := getCertificate(t)
	r := newRig(t, proxy.Options{HeaderTimeout: brief, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if h.ServerName == "bad.example" {
			return nil, errors.New("there is none")
		}
		return get(h)
	}}, newOrigin(t, "it", nil).addr)
	for _, garbage := range []string{"", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\x16\x03\x01", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 100_000), "\x00"} {
		c, br := open(t, r.addr)
		c.Write([]byte(garbage))
		toEnd(t, br)
	}
	_, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, ServerName: "bad.example"})
	require.Error(t, err)
	c := tlsClient(t, true)
	resp, err := c.Get("https://" + r.addr)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
}

func serialOf(t testing.TB, addr string) int64 {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// TestCertificateFiles replaces the files while serving: at once, half, and with
// nonsense. There is no bad handshake, and connections that were open stay.
func TestCertificateFiles(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := certificateFiles(t, dir, 1)
	get, err := proxy.CertificateFiles(certFile, keyFile)
	require.NoError(t, err)
	r := newRig(t, proxy.Options{GetCertificate: get}, newOrigin(t, "it", nil).addr)
	require.EqualValues(t, 1, serialOf(t, r.addr))
	kept := tlsClient(t, false)
	ask := func() {
		resp, err := kept.Get("https://" + r.addr)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
	}
	ask()

	certificateFiles(t, dir, 2)
	soon(t, func() bool { return serialOf(t, r.addr) == 2 })
	ask()

	cert, key := newCertificate(t, 3)
	require.NoError(t, os.WriteFile(certFile, cert, 0o600)) // the key is that of another
	for began := time.Now(); time.Since(began) < 1200*time.Millisecond; time.Sleep(brief) {
		require.EqualValues(t, 2, serialOf(t, r.addr))
	}
	require.NoError(t, os.WriteFile(keyFile, key, 0o600))
	soon(t, func() bool { return serialOf(t, r.addr) == 3 })

	require.NoError(t, os.Remove(keyFile))
	require.NoError(t, os.WriteFile(certFile, bytes.Repeat([]byte("x"), 100), 0o600))
	time.Sleep(1100 * time.Millisecond)
	require.EqualValues(t, 3, serialOf(t, r.addr))
	ask()
}

func TestCertificateFilesErrors(t *testing.T) {
	dir := t.TempDir()
	_, err := proxy.CertificateFiles(filepath.Join(dir, "none"), filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	certFile, keyFile := certificateFiles(t, dir, 1)
	require.NoError(t, os.WriteFile(keyFile, []byte("nonsense"), 0o600))
	_, err = proxy.CertificateFiles(certFile, keyFile)
	require.ErrorContains(t, err, keyFile)
	require.ErrorContains(t, err, certFile)
}

// TestTLSShutdown: what is in flight is answered, what is idle is closed.
func TestTLSShutdown(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		g := newGate(t, "it")
		r := newRig(t, proxy.Options{GetCertificate: getCertificate(t), DrainTimeout: time.Hour}, g.addr)
		c := tlsClient(t, h2)
		res := in(func() (answer, error) { return fetch(c, "POST", "https://"+r.addr, "body") })
		receive(t, g.arrived)
		r.cancel()
		r.refuses()
		r.serving()
		g.letGo()
		a := receive(t, res)
		require.NoError(t, a.err)
		require.Equal(t, "it", a.body)
		r.serveEnds()
		r.close()
	}
}

// TestTLSUploadRests: a connection has no buffers while it rests, also after a
// body that was larger than they are.
func TestTLSUploadRests(t *testing.T) {
	r := newRig(t, proxy.Options{GetCertificate: getCertificate(t)}, newOrigin(t, "it", nil).addr)
	const n = 64
	var conns []*tls.Conn
	var readers []*bufio.Reader
	for range n {
		c, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		require.NoError(t, err)
		defer c.Close()
		conns, readers = append(conns, c), append(readers, bufio.NewReader(c))
	}
	upload := func() {
		for i, c := range conns {
			say(t, c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n%20000d", 0)
			require.Equal(t, 200, hear(t, readers[i]).status)
		}
	}
	held := func() int64 {
		var m runtime.MemStats
		for range 3 { // what pools hold ends with the second one
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	upload()
	for i, c := range conns { // after this they have none for certain
		say(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		require.Equal(t, 200, hear(t, readers[i]).status)
	}
	before := held()
	upload()
	require.Less(t, held()-before, int64(n*proxy.BufferSize/2))
}
