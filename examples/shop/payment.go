package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/ServiceWeaver/weaver"
)

// creditLimit is the total from which Payment declines.
const creditLimit Money = 2_000_00

// Charge is a payment that went through.
type Charge struct {
	weaver.AutoMarshal
	Authorization string  `json:"authorization"`
	Replica       Replica `json:"replica"`
}

// Payment takes the money; not really.
type Payment interface {
	// Charge pays the amount for the order. Charging an order again gives the
	// same authorization. More than the credit limit is a Refusal.
	Charge(_ context.Context, order string, amount Money) (Charge, error)

	// Where returns the replica that answers.
	Where(context.Context) ([]Replica, error)
}

type payment struct {
	weaver.Implements[Payment]
	weaver.WithConfig[Faults]
}

func (p *payment) Charge(ctx context.Context, order string, amount Money) (Charge, error) {
	if err := p.Config().strike(ctx, "Payment"); err != nil {
		return Charge{}, err
	}
	if amount > creditLimit {
		return Charge{}, Refusal{Reason: fmt.Sprintf("Your card was declined: %v is more than its limit of %v.", amount, creditLimit)}
	}
	sum := sha256.Sum256([]byte(order))
	return Charge{Authorization: hex.EncodeToString(sum[:4]), Replica: here("Payment")}, nil
}

func (p *payment) Where(context.Context) ([]Replica, error) {
	return []Replica{here("Payment")}, nil
}
