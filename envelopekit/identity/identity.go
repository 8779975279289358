// Package identity gives every colocation group of a deployment an identity
// that others can check: a certificate authority that lives as long as the
// deployment, and short-lived certificates that name the group.
//
//	ca, err := identity.New(identity.Options{})
//	cert, key, err := ca.Certificate("main")      // PEM, for one side of a connection
//	group, err := ca.Verify(chain)                // on the other side: "main"
//
// Keys are ECDSA P-256, made in microseconds; they and the authority's own key
// live in memory only, never in a file. A weavelet asks for its certificate at
// each new handshake, so rotation needs no restart: [Authority.Certificate]
// answers with a new one once two thirds of the last one's lifetime are over,
// and connections that stand live on.
//
// The package says who somebody is. Who may call whom is for the caller to
// decide.
package identity

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"time"
)

// scheme is that of the URI in a certificate's subject alternative names that
// holds the group's name: weaverkit:main.
const scheme = "weaverkit"

// backdate is how long before its making a certificate is valid already, for
// peers whose clocks run late.
const backdate = 5 * time.Minute

// Options configure an [Authority]. The zero value is good for use.
type Options struct {
	// Lifetime of the certificates of groups. Zero means one hour. New
	// certificates are made after two thirds of it.
	Lifetime time.Duration

	// AuthorityLifetime is that of the authority's own certificate, and the
	// longest time that a deployment can run with it. Zero means ten years.
	AuthorityLifetime time.Duration
}

// An Authority issues and verifies the certificates of one deployment. Its
// methods may be called from several goroutines.
type Authority struct {
	opts Options
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool

	mu      sync.Mutex // guards the following
	current map[string]*leaf
}

// leaf is the newest certificate of one group.
type leaf struct {
	mu      sync.Mutex // held while a successor is made, so that one caller makes it
	certPEM []byte
	keyPEM  []byte
	renew   time.Time
}

// New makes an authority with a new key.
func New(opts Options) (*Authority, error) {
	if opts.Lifetime < 0 || opts.AuthorityLifetime < 0 {
		return nil, fmt.Errorf("identity: negative Lifetime %v or AuthorityLifetime %v", opts.Lifetime, opts.AuthorityLifetime)
	}
	opts.Lifetime = cmp.Or(opts.Lifetime, time.Hour)
	opts.AuthorityLifetime = cmp.Or(opts.AuthorityLifetime, 10*365*24*time.Hour)
	if opts.Lifetime > opts.AuthorityLifetime {
		return nil, fmt.Errorf("identity: Lifetime %v is longer than AuthorityLifetime %v", opts.Lifetime, opts.AuthorityLifetime)
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("identity: make the authority's key: %w", err)
	}
	now := time.Now()
	template, err := newTemplate("weaverkit deployment authority", now, now.Add(opts.AuthorityLifetime))
	if err != nil {
		return nil, fmt.Errorf("identity: make the authority's certificate: %w", err)
	}
	template.IsCA = true
	template.MaxPathLenZero = true // it signs leaves only
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("identity: make the authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("identity: read back the authority's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &Authority{opts: opts, cert: cert, key: key, pool: pool, current: map[string]*leaf{}}, nil
}

// Certificate returns the PEM blocks of a certificate that names the group,
// and of its private key. The same pair is returned until two thirds of its
// lifetime are over; callers must not modify it.
func (a *Authority) Certificate(group string) (certPEM, keyPEM []byte, err error) {
	if group == "" {
		return nil, nil, errors.New("identity: a certificate needs a group name, got an empty one")
	}
	a.mu.Lock()
	l, ok := a.current[group]
	if !ok {
		l = &leaf{}
		a.current[group] = l
	}
	a.mu.Unlock()

	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.renew) {
		return l.certPEM, l.keyPEM, nil
	}
	now := time.Now()
	certPEM, keyPEM, err = a.issue(group, now)
	if err != nil {
		return nil, nil, fmt.Errorf("identity: issue a certificate for group %q: %w", group, err)
	}
	l.certPEM, l.keyPEM = certPEM, keyPEM
	l.renew = now.Add(a.opts.Lifetime / 3 * 2)
	return certPEM, keyPEM, nil
}

// Verify checks a chain of DER certificates as a peer presents it in a
// handshake, and returns the name of the group it belongs to. The chain must
// be one unexpired certificate of this authority.
func (a *Authority) Verify(chain [][]byte) (group string, err error) {
	if len(chain) != 1 {
		return "", fmt.Errorf("identity: got a chain of %d certificates, want 1", len(chain))
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return "", fmt.Errorf("identity: unreadable certificate: %w", err)
	}
	opts := x509.VerifyOptions{Roots: a.pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := cert.Verify(opts); err != nil {
		return "", fmt.Errorf("identity: certificate is not of this deployment or not valid now: %w", err)
	}
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != scheme {
		return "", errors.New("identity: certificate names no group")
	}
	group, err = url.PathUnescape(cert.URIs[0].Opaque)
	if err != nil || group == "" {
		return "", fmt.Errorf("identity: certificate names an unreadable group %q", cert.URIs[0])
	}
	return group, nil
}

func (a *Authority) issue(group string, now time.Time) (certPEM, keyPEM []byte, err error) {
	if end := a.cert.NotAfter; now.After(end) {
		return nil, nil, fmt.Errorf("the authority has expired at %s; a new deployment gets a new one", end.Format(time.RFC3339))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template, err := newTemplate("weavelet", now, now.Add(a.opts.Lifetime))
	if err != nil {
		return nil, nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.URIs = []*url.URL{{Scheme: scheme, Opaque: url.PathEscape(group)}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	return certPEM, keyPEM, nil
}

// newTemplate returns what the certificates of authority and groups share.
// Times in a certificate are whole seconds; the end is rounded up, so that a
// certificate of a short life does not end before its successor is made.
func newTemplate(name string, now, end time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              end.Add(time.Second - 1),
		BasicConstraintsValid: true,
	}, nil
}
