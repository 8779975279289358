package identity_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit/identity"
)

func newAuthority(t testing.TB, opts identity.Options) *identity.Authority {
	t.Helper()
	ca, err := identity.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// chain returns the certificate of a group as a peer presents it.
func chain(t testing.TB, ca *identity.Authority, group string) [][]byte {
	t.Helper()
	cert, _, err := ca.Certificate(group)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{der(t, cert)}
}

func der(t testing.TB, certPEM []byte) []byte {
	t.Helper()
	block, rest := pem.Decode(certPEM)
	if block == nil || len(bytes.TrimSpace(rest)) != 0 || block.Type != "CERTIFICATE" {
		t.Fatalf("not one PEM block of a certificate: %q", certPEM)
	}
	return block.Bytes
}

func parse(t testing.TB, certPEM []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der(t, certPEM))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestOptions(t *testing.T) {
	for _, test := range []struct {
		name string
		opts identity.Options
		want string // error; "" for none
	}{
		{"zero", identity.Options{}, ""},
		{"huge", identity.Options{Lifetime: math.MaxInt64, AuthorityLifetime: math.MaxInt64}, ""},
		{"equal", identity.Options{Lifetime: time.Minute, AuthorityLifetime: time.Minute}, ""},
		{"negative", identity.Options{Lifetime: -1}, "identity: negative Lifetime -1ns or AuthorityLifetime 0s"},
		{"negative authority", identity.Options{AuthorityLifetime: -time.Hour}, "identity: negative Lifetime 0s or AuthorityLifetime -1h0m0s"},
		{"leaf outlives authority", identity.Options{AuthorityLifetime: time.Minute}, "identity: Lifetime 1h0m0s is longer than AuthorityLifetime 1m0s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ca, err := identity.New(test.opts)
			if test.want != "" {
				if err == nil || err.Error() != test.want {
					t.Fatalf("got error %v, want %s", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := ca.Verify(chain(t, ca, "main")); got != "main" || err != nil {
				t.Errorf("Verify: got %q, %v", got, err)
			}
			first, _, _ := ca.Certificate("main")
			if again, _, _ := ca.Certificate("main"); !bytes.Equal(first, again) {
				t.Errorf("a new certificate at once")
			}
		})
	}
}

func TestGroupNames(t *testing.T) {
	ca := newAuthority(t, identity.Options{})
	names := []string{
		"main", "shop.Cart", "example.com/shop/Cart", "/", "//host/path", "../..", ".", "%", "%41", "%2F", "100%", "%zz",
		"a b", " ", "\t\n", "a:b", "weaverkit:main", "mailto:x", "a?b=c#d", "user@host", "[::1]:80", "größe", "日本語", "🙂",
		"\x00", "\xff\xfe", "MAIN", strings.Repeat("x", 1000), strings.Repeat("ü/%", 5000), `"quoted"`, `back\slash`, "a&b;c,d",
	}
	seen := map[string]string{}
	for _, name := range names {
		c := chain(t, ca, name)
		got, err := ca.Verify(c)
		if err != nil || got != name {
			t.Errorf("group %.40q: got %.40q, %v", name, got, err)
		}
		if before, ok := seen[string(c[0])]; ok {
			t.Errorf("groups %q and %q share a certificate", before, name)
		}
		seen[string(c[0])] = name
	}
	if cert, key, err := ca.Certificate(""); err == nil || cert != nil || key != nil {
		t.Errorf("an empty name got a certificate, error %v", err)
	}
}

func TestCertificate(t *testing.T) {
	ca := newAuthority(t, identity.Options{})
	certPEM, keyPEM, err := ca.Certificate("main")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatalf("certificate and key do not belong together: %v", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		t.Errorf("got a %T, want an ECDSA key on P-256", pair.PrivateKey)
	}
	cert := parse(t, certPEM)
	if cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("the certificate is good for more than it should: CA %t, usage %b", cert.IsCA, cert.KeyUsage)
	}
	if lifetime := time.Until(cert.NotAfter); lifetime < 59*time.Minute || lifetime > 61*time.Minute {
		t.Errorf("it lives for %v, want an hour", lifetime)
	}
	other, otherKey, err := ca.Certificate("other")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(other, certPEM) || bytes.Equal(otherKey, keyPEM) || parse(t, other).SerialNumber.Cmp(cert.SerialNumber) == 0 {
		t.Error("two groups share a certificate, a key or a serial number")
	}
	root, rootKey := ca.Root()
	if rootKey.Equal(key) || bytes.Contains(keyPEM, root.Raw) {
		t.Error("the authority's key was handed out")
	}
}

// A certificate is renewed when two thirds of its life are over, one group at
// a time, and the old one is good until its end.
func TestRotation(t *testing.T) {
	for _, lifetime := range []time.Duration{time.Second, 10 * time.Second, time.Hour, 30 * 24 * time.Hour} {
		t.Run(lifetime.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(123456789) // certificates know whole seconds only
				ca := newAuthority(t, identity.Options{Lifetime: lifetime})
				old, oldKey, err := ca.Certificate("main")
				if err != nil {
					t.Fatal(err)
				}
				third := lifetime / 3
				time.Sleep(2*third - 1)
				if again, _, _ := ca.Certificate("main"); !bytes.Equal(old, again) {
					t.Fatal("renewed before two thirds of its life")
				}
				time.Sleep(1 * time.Nanosecond)
				renewed, key, err := ca.Certificate("main")
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Equal(old, renewed) || bytes.Equal(oldKey, key) {
					t.Fatal("not renewed after two thirds of its life")
				}
				time.Sleep(lifetime - 2*third - 1)
				for name, c := range map[string][]byte{"old": old, "renewed": renewed} {
					if _, err := ca.Verify([][]byte{der(t, c)}); err != nil {
						t.Errorf("the %s one, at the end of the old one's life: %v", name, err)
					}
				}
				time.Sleep(time.Second + 1) // it is rounded up to a second
				if group, err := ca.Verify([][]byte{der(t, old)}); err == nil {
					t.Errorf("the old one is good for %q after its end", group)
				}
				// Whenever a peer asks, it gets one that is good.
				for range 20 {
					time.Sleep(lifetime/7 + 1)
					if _, err := ca.Verify(chain(t, ca, "main")); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

func TestAuthorityExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t, identity.Options{Lifetime: time.Hour, AuthorityLifetime: 90 * time.Minute})
		time.Sleep(80 * time.Minute)
		last := chain(t, ca, "main")
		if _, err := ca.Verify(last); err != nil {
			t.Error(err)
		}
		time.Sleep(20 * time.Minute) // the certificate has 40 left, the authority none
		if _, err := ca.Verify(last); err == nil {
			t.Error("a certificate outlives its authority")
		}
		_, _, err := ca.Certificate("late")
		want := `identity: issue a certificate for group "late": the authority has expired at 2000-01-01T01:30:00Z; a new deployment gets a new one`
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	})
}

// Peers whose clocks run up to five minutes late take a new certificate.
func TestLateClock(t *testing.T) {
	ca := newAuthority(t, identity.Options{})
	cert, _, err := ca.Certificate("main")
	if err != nil {
		t.Fatal(err)
	}
	root, _ := ca.Root()
	if late := time.Now().Add(-4 * time.Minute); parse(t, cert).NotBefore.After(late) || root.NotBefore.After(late) {
		t.Error("not yet valid for a peer whose clock is four minutes late")
	}
}

func TestVerifyRefuses(t *testing.T) {
	ca := newAuthority(t, identity.Options{})
	root, rootKey := ca.Root()
	good := chain(t, ca, "main")[0]
	foreign := chain(t, newAuthority(t, identity.Options{}), "main")[0]

	// sign makes a certificate that the authority itself has signed.
	sign := func(change func(*x509.Certificate)) []byte {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1),
			NotBefore:    time.Now().Add(-time.Hour),
			NotAfter:     time.Now().Add(time.Hour),
		}
		change(template)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(rand.Reader, template, root, &key.PublicKey, rootKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	uris := func(uris ...*url.URL) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = uris }
	}
	main := &url.URL{Scheme: "weaverkit", Opaque: "main"}
	if group, err := ca.Verify([][]byte{sign(uris(main))}); group != "main" || err != nil {
		t.Fatalf("the signer of this test does not work: %q, %v", group, err)
	}

	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for _, test := range []struct {
		name  string
		chain [][]byte
		want  string // part of the error
	}{
		{"nothing", nil, "chain of 0 certificates"},
		{"two", [][]byte{good, good}, "chain of 2 certificates"},
		{"with the authority", [][]byte{good, root.Raw}, "chain of 2 certificates"},
		{"empty", [][]byte{{}}, "unreadable certificate"},
		{"nil", [][]byte{nil}, "unreadable certificate"},
		{"garbage", [][]byte{[]byte("garbage")}, "unreadable certificate"},
		{"PEM", [][]byte{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: good})}, "unreadable certificate"},
		{"cut", [][]byte{good[:len(good)-1]}, "unreadable certificate"},
		{"trailing byte", [][]byte{append(bytes.Clone(good), 0)}, "unreadable certificate"},
		{"bad signature", [][]byte{flipped}, "not of this deployment"},
		{"another deployment", [][]byte{foreign}, "not of this deployment"},
		{"the authority itself", [][]byte{root.Raw}, "names no group"},
		{"expired", [][]byte{sign(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute); c.URIs = []*url.URL{main} })}, "not valid now"},
		{"in the future", [][]byte{sign(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute); c.URIs = []*url.URL{main} })}, "not valid now"},
		{"no name", [][]byte{sign(uris())}, "names no group"},
		{"two names", [][]byte{sign(uris(main, &url.URL{Scheme: "weaverkit", Opaque: "other"}))}, "names no group"},
		{"another scheme", [][]byte{sign(uris(&url.URL{Scheme: "spiffe", Host: "main"}))}, "names no group"},
		{"empty name", [][]byte{sign(uris(&url.URL{Scheme: "weaverkit"}))}, "unreadable group"},
		{"broken escape", [][]byte{sign(uris(&url.URL{Scheme: "weaverkit", Opaque: "a%zz"}))}, "unreadable group"},
		{"name as host", [][]byte{sign(uris(&url.URL{Scheme: "weaverkit", Host: "main"}))}, "unreadable group"},
		{"DNS name only", [][]byte{sign(func(c *x509.Certificate) { c.DNSNames = []string{"main"} })}, "names no group"},
	} {
		t.Run(test.name, func(t *testing.T) {
			group, err := ca.Verify(test.chain)
			if err == nil || group != "" {
				t.Fatalf("got group %q, error %v", group, err)
			}
			if !strings.HasPrefix(err.Error(), "identity: ") || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "%!") {
				t.Errorf("got %q, want one with %q", err, test.want)
			}
		})
	}
}

// A group's certificate must not be able to sign one for another group.
func TestLeafSignsNothing(t *testing.T) {
	ca := newAuthority(t, identity.Options{})
	certPEM, keyPEM, err := ca.Certificate("cart")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	key := pair.PrivateKey.(*ecdsa.PrivateKey)
	forged, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		URIs:         []*url.URL{{Scheme: "weaverkit", Opaque: "main"}},
	}, parse(t, certPEM), &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, chain := range [][][]byte{{forged}, {forged, der(t, certPEM)}} {
		if group, err := ca.Verify(chain); err == nil {
			t.Errorf("a chain of %d made group cart into %q", len(chain), group)
		}
	}
}

// FuzzVerify: whatever a peer presents, Verify does not panic, and names a
// group only for a certificate that the authority has signed.
func FuzzVerify(f *testing.F) {
	ca := newAuthority(f, identity.Options{})
	foreign := newAuthority(f, identity.Options{})
	root, _ := ca.Root()
	good := chain(f, ca, "main")[0]
	f.Add(good, 0, byte(1))
	f.Add(good, len(good)/2, byte(0x80))
	f.Add(chain(f, foreign, "main")[0], 10, byte(0))
	f.Add(root.Raw, 0, byte(0))
	f.Add([]byte{0x30, 0x82}, 1, byte(0xff))
	f.Fuzz(func(t *testing.T, data []byte, at int, flip byte) {
		if at >= 0 && at < len(data) {
			data = bytes.Clone(data)
			data[at] ^= flip
		}
		group, err := ca.Verify([][]byte{data})
		if (group != "") != (err == nil) {
			t.Fatalf("got group %q and error %v", group, err)
		}
		if err == nil && !bytes.Equal(data, good) {
			cert, perr := x509.ParseCertificate(data)
			if perr != nil || cert.CheckSignatureFrom(root) != nil {
				t.Fatalf("took what it has not signed, as group %q", group)
			}
		}
	})
}

// handshake connects a client of one group with a server of another, each of
// which has the other checked as a weavelet does, and passes a message.
func handshake(t *testing.T, client, server *identity.Authority, clientGroup, serverGroup string) (sawClient, sawServer string, err error) {
	t.Helper()
	config := func(ca *identity.Authority, group string, saw *string) *tls.Config {
		own := func() (*tls.Certificate, error) {
			cert, key, err := ca.Certificate(group)
			if err != nil {
				return nil, err
			}
			pair, err := tls.X509KeyPair(cert, key)
			return &pair, err
		}
		return &tls.Config{
			ClientAuth:           tls.RequireAnyClientCert,
			InsecureSkipVerify:   true, // VerifyPeerCertificate does it
			GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own() },
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own() },
			VerifyPeerCertificate: func(chain [][]byte, _ [][]*x509.Certificate) error {
				name, err := ca.Verify(chain)
				*saw = name
				return err
			},
		}
	}
	clientPipe, serverPipe := net.Pipe()
	for _, c := range []net.Conn{clientPipe, serverPipe} {
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	served := make(chan error, 1)
	go func() {
		conn := tls.Server(serverPipe, config(server, serverGroup, &sawClient))
		defer serverPipe.Close()
		message := make([]byte, 5)
		if _, err := io.ReadFull(conn, message); err != nil {
			served <- err
			return
		}
		_, err := conn.Write(message)
		served <- err
	}()
	conn := tls.Client(clientPipe, config(client, clientGroup, &sawServer))
	echo := make([]byte, 5)
	err = conn.HandshakeContext(context.Background())
	if err == nil {
		_, err = conn.Write([]byte("hello"))
	}
	if err == nil {
		_, err = io.ReadFull(conn, echo)
	}
	if err == nil && string(echo) != "hello" {
		err = fmt.Errorf("got %q back", echo)
	}
	clientPipe.Close()
	return sawClient, sawServer, errors.Join(err, <-served)
}

func TestHandshake(t *testing.T) {
	ca := newAuthority(t, identity.Options{})
	client, server, err := handshake(t, ca, ca, "main", "example.com/shop/Cart")
	if err != nil {
		t.Fatal(err)
	}
	if client != "main" || server != "example.com/shop/Cart" {
		t.Errorf("the server saw client %q, the client server %q", client, server)
	}
	other := newAuthority(t, identity.Options{})
	if _, _, err := handshake(t, ca, other, "main", "cart"); err == nil || !strings.Contains(err.Error(), "not of this deployment") {
		t.Errorf("peers of two deployments: got %v", err)
	}
	if _, _, err := handshake(t, other, ca, "main", "cart"); err == nil {
		t.Error("peers of two deployments trust each other")
	}
}

// Rotation needs no restart: each handshake asks anew.
func TestHandshakesAcrossRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t, identity.Options{Lifetime: time.Minute})
		first := chain(t, ca, "main")
		for range 10 {
			if client, server, err := handshake(t, ca, ca, "main", "cart"); err != nil || client != "main" || server != "cart" {
				t.Fatalf("got client %q, server %q, error %v", client, server, err)
			}
			time.Sleep(25 * time.Second)
		}
		if bytes.Equal(first[0], chain(t, ca, "main")[0]) {
			t.Error("nothing was rotated")
		}
	})
}

func TestConcurrency(t *testing.T) {
	ca := newAuthority(t, identity.Options{})
	var mu sync.Mutex
	certs := map[string]map[string]bool{}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for j := range 20 {
				group := fmt.Sprintf("group %d", (i+j)%5)
				cert, key, err := ca.Certificate(group)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := tls.X509KeyPair(cert, key); err != nil {
					t.Error(err)
				}
				if got, err := ca.Verify([][]byte{der(t, cert)}); got != group || err != nil {
					t.Errorf("got group %q, error %v, want %q", got, err, group)
				}
				mu.Lock()
				if certs[group] == nil {
					certs[group] = map[string]bool{}
				}
				certs[group][string(cert)] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for group, c := range certs {
		if len(c) != 1 {
			t.Errorf("%s: concurrent callers made %d certificates, want 1", group, len(c))
		}
	}
}

// Keys live in memory: nothing appears where a program would put a file.
func TestNoFiles(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{"TMPDIR", "HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"} {
		t.Setenv(name, dir)
	}
	ca := newAuthority(t, identity.Options{})
	if _, err := ca.Verify(chain(t, ca, "main")); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if path != dir {
			t.Errorf("there is a file %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
