package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// The shop keeps nothing about a customer but the cart in the memory of a
// replica. The browser keeps the rest, in three cookies: who it is, the cart as
// it last saw it (so that it survives the replica), and the last receipt.
const (
	userCookie    = "shop_user"
	cartCookie    = "shop_cart"
	receiptCookie = "shop_receipt"

	monthInSeconds = 30 * 24 * 60 * 60
)

// session is what the browser told, or was just told.
type session struct {
	User string
	Cart Contents
}

// readSession reads the cookies. What is not there or does not parse is empty.
func readSession(r *http.Request) session {
	var s session
	if c, err := r.Cookie(userCookie); err == nil && validName(c.Value) {
		s.User = c.Value
	}
	if c, err := r.Cookie(cartCookie); err == nil {
		if cart, err := parseContents(c.Value); err == nil {
			s.Cart = cart
		}
	}
	return s
}

// openSession is readSession, and gives the browser an identity if it has none.
func openSession(w http.ResponseWriter, r *http.Request) session {
	s := readSession(r)
	if s.User == "" {
		s.User = rand.Text()
		setCookie(w, userCookie, s.User)
	}
	return s
}

// remember gives the browser the newest copy of its cart.
func (s *session) remember(w http.ResponseWriter, cart Contents) {
	if cart.Revision != s.Cart.Revision {
		setCookie(w, cartCookie, formatContents(cart))
	}
	s.Cart = cart
}

func setCookie(w http.ResponseWriter, name, value string) {
	http.SetCookie(w, &http.Cookie{
		Name:     name,
		Value:    value,
		Path:     "/",
		MaxAge:   monthInSeconds,
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
	})
}

// validName reports whether name is fit for a user or a product: short, and
// of letters, digits, '-', '_' and '.'.
func validName(name string) bool {
	if name == "" || len(name) > 64 {
		return false
	}
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.ContainsRune("-_.", c):
		default:
			return false
		}
	}
	return true
}

// maxRevision bounds what a cookie may claim; nobody clicks that often.
const maxRevision = 1 << 40

// formatContents writes a cart as a cookie's value, such as
// "3|denim-tote:1|diamond-rug:2" for revision 3.
func formatContents(c Contents) string {
	var b strings.Builder
	b.WriteString(strconv.FormatInt(c.Revision, 10))
	for _, l := range c.Lines {
		fmt.Fprintf(&b, "|%s:%d", l.Product, l.Quantity)
	}
	return b.String()
}

// parseContents is the inverse of formatContents. It takes only what the Cart
// could have produced, as browsers send what they like.
func parseContents(value string) (Contents, error) {
	head, rest, more := strings.Cut(value, "|")
	revision, err := strconv.ParseInt(head, 10, 64)
	if err != nil || revision < 0 || revision > maxRevision {
		return Contents{}, fmt.Errorf("parse cart: bad revision %q", head)
	}
	c := Contents{Revision: revision}
	seen := map[string]bool{}
	for more {
		var field string
		field, rest, more = strings.Cut(rest, "|")
		product, number, _ := strings.Cut(field, ":")
		quantity, err := strconv.Atoi(number)
		if err != nil || quantity < 1 || quantity > maxQuantity || !validName(product) || seen[product] || len(c.Lines) == maxLines {
			return Contents{}, fmt.Errorf("parse cart: bad line %q", field)
		}
		seen[product] = true
		c.Lines = append(c.Lines, Line{Product: product, Quantity: quantity})
	}
	return c, nil
}

func setReceipt(w http.ResponseWriter, receipt Receipt) error {
	b, err := json.Marshal(receipt)
	if err != nil {
		return fmt.Errorf("write receipt: %w", err)
	}
	setCookie(w, receiptCookie, base64.RawURLEncoding.EncodeToString(b))
	return nil
}

// lastReceipt returns the receipt the browser holds, if any.
func lastReceipt(r *http.Request) (Receipt, bool) {
	c, err := r.Cookie(receiptCookie)
	if err != nil {
		return Receipt{}, false
	}
	b, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil {
		return Receipt{}, false
	}
	var receipt Receipt
	if err := json.Unmarshal(b, &receipt); err != nil || receipt.Order == "" {
		return Receipt{}, false
	}
	return receipt, true
}
