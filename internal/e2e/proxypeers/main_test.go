package proxypeers_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// patience is how long what must come may take.
const patience = 20 * time.Second

// A front is a proxy that serves a listener without TLS, and one with it.
type front struct {
	*proxy.Proxy
	plain, tls string // addresses
}

func serve(t *testing.T, opts proxy.Options, backends ...string) front {
	t.Helper()
	opts.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }
	opts.ErrorLog = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	p, err := proxy.New(opts)
	require.NoError(t, err)
	p.SetBackends(backends)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 2)
	plain, encrypted := listen(t), listen(t)
	go func() { served <- p.Serve(ctx, plain) }()
	go func() { served <- p.ServeTLS(ctx, encrypted) }()
	t.Cleanup(func() {
		cancel()
		p.Close()
		assert.NoError(t, <-served)
		assert.NoError(t, <-served)
	})
	return front{p, plain.Addr().String(), encrypted.Addr().String()}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// backend serves h over HTTP/1.1 and HTTP/2 without TLS.
func backend(t *testing.T, h http.Handler) string {
	t.Helper()
	l := listen(t)
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends by Close
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return l.Addr().String()
}

// program returns the path of a program that the test needs.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			require.NoError(t, err, "CI needs %s: install it", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

func within(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

// The certificate for 127.0.0.1, and who trusts it.
var (
	pair  tls.Certificate
	roots = x509.NewCertPool()
	caPEM []byte
)

func TestMain(m *testing.M) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	pair = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots.AppendCertsFromPEM(caPEM)
	os.Exit(m.Run())
}

func tlsConfig() *tls.Config { return &tls.Config{RootCAs: roots} }
