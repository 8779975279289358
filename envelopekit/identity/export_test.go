package identity

import (
	"crypto/ecdsa"
	"crypto/x509"
)

// Root returns the authority's own certificate, and its key.
func (a *Authority) Root() (*x509.Certificate, *ecdsa.PrivateKey) { return a.cert, a.key }
