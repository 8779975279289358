package proxy

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// CertificateFiles returns a function for Options.GetCertificate that has the
// certificate of two PEM files, and reads them again when they have changed; it
// looks once a second at most, during a handshake. While they cannot be read, or
// do not match, it goes on with what it has. It returns an error if they cannot
// be read now.
func CertificateFiles(certFile, keyFile string) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	f := &certFiles{cert: certFile, key: keyFile}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.readLocked(); err != nil {
		return nil, err
	}
	return f.get, nil
}

type certFiles struct {
	cert, key string
	have      atomic.Pointer[tls.Certificate]

	mu      sync.Mutex // guards the following
	looked  time.Time
	changed [2]time.Time
}

// get returns the certificate. One handshake at a time looks at the files; the
// others do not wait for that.
func (f *certFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if f.mu.TryLock() {
		if time.Since(f.looked) >= time.Second {
			_ = f.readLocked() // it goes on with what it has
		}
		f.mu.Unlock()
	}
	return f.have.Load(), nil
}

// readLocked reads the files if they have changed.
func (f *certFiles) readLocked() error {
	f.looked = time.Now()
	var changed [2]time.Time
	for i, name := range []string{f.cert, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("read certificate: %w", err)
		}
		changed[i] = info.ModTime()
	}
	if changed == f.changed {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return fmt.Errorf("read certificate %s with key %s: %w", f.cert, f.key, err)
	}
	f.have.Store(&cert)
	f.changed = changed
	return nil
}
