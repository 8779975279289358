package proxy

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// CertificateFiles returns a function for Options.GetCertificate that has the
// certificate of two PEM files, and reads them again when they have changed; it
// looks once a second at most, during a handshake. While they cannot be read, or
// do not match, it goes on with what it has. It returns an error if they cannot
// be read now.
func CertificateFiles(certFile, keyFile string) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	f := &certFiles{cert: certFile, key: keyFile}
	if _, err := f.get(nil); err != nil {
		return nil, err
	}
	return f.get, nil
}

type certFiles struct {
	cert, key string

	mu      sync.Mutex // guards the following
	looked  time.Time
	changed [2]time.Time
	have    *tls.Certificate
}

func (f *certFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.have != nil && time.Since(f.looked) < time.Second {
		return f.have, nil
	}
	f.looked = time.Now()
	var changed [2]time.Time
	for i, name := range []string{f.cert, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			return f.keep(fmt.Errorf("read certificate: %w", err))
		}
		changed[i] = info.ModTime()
	}
	if f.have != nil && changed == f.changed {
		return f.have, nil
	}
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return f.keep(fmt.Errorf("read certificate %s with key %s: %w", f.cert, f.key, err))
	}
	f.have, f.changed = &cert, changed
	return f.have, nil
}

func (f *certFiles) keep(err error) (*tls.Certificate, error) {
	if f.have != nil {
		return f.have, nil
	}
	return nil, err
}
