package identity_test

import (
	"encoding/pem"
	"fmt"
	"log"

	"github.com/weaverkit/weaverkit/envelopekit/identity"
)

func Example() {
	ca, err := identity.New(identity.Options{})
	if err != nil {
		log.Fatal(err)
	}
	// One side of a connection shows its certificate ...
	cert, _, err := ca.Certificate("shop.Cart")
	if err != nil {
		log.Fatal(err)
	}
	block, _ := pem.Decode(cert)

	// ... and the other side has it checked.
	group, err := ca.Verify([][]byte{block.Bytes})
	fmt.Println(group, err)

	// The certificate of another deployment is worth nothing.
	other, err := identity.New(identity.Options{})
	if err != nil {
		log.Fatal(err)
	}
	group, err = other.Verify([][]byte{block.Bytes})
	fmt.Printf("%q %t\n", group, err != nil)
	// Output:
	// shop.Cart <nil>
	// "" true
}
