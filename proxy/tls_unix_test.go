//go:build unix

package proxy_test

import (
	"crypto/tls"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// TestCertificateFilesHang: files that cannot be read for now hold up one
// handshake, not all.
func TestCertificateFilesHang(t *testing.T) {
	certFile, keyFile := certificateFiles(t, t.TempDir(), 1)
	get, err := proxy.CertificateFiles(certFile, keyFile)
	require.NoError(t, err)
	want, err := get(nil)
	require.NoError(t, err)
	require.NoError(t, os.Remove(certFile))
	require.NoError(t, syscall.Mkfifo(certFile, 0o600)) // opening it waits for a writer
	time.Sleep(1100 * time.Millisecond)                 // they are looked at again
	got := make(chan *tls.Certificate, 2)
	for range 2 {
		go func() {
			c, _ := get(nil)
			got <- c
		}()
	}
	require.Same(t, want, receive(t, got))
	w, err := os.OpenFile(certFile, os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.Same(t, want, receive(t, got), "what is no certificate is ignored")
}
