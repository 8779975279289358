package identity_test

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"testing"

	"github.com/weaverkit/weaverkit/envelopekit/identity"
)

// What does a group's first handshake cost, compared to the key of 4096 bits
// that Service Weaver's own deployers make for each group? What does a later
// handshake cost, which finds the certificate made, and what its check?
func BenchmarkCertificate(b *testing.B) {
	b.Run("issue", func(b *testing.B) {
		ca := newAuthority(b, identity.Options{})
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, _, err := ca.Certificate(fmt.Sprint("group ", i)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		ca := newAuthority(b, identity.Options{})
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := ca.Certificate("main"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		ca := newAuthority(b, identity.Options{})
		c := chain(b, ca, "main")
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ca.Verify(c); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("baseline=rsa4096", func(b *testing.B) {
		for b.Loop() {
			if _, err := rsa.GenerateKey(rand.Reader, 4096); err != nil {
				b.Fatal(err)
			}
		}
	})
}
