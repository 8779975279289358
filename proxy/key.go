package proxy

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
)

// A Key is what of a request tells its sender from others. The zero Key is
// none.
type Key struct {
	kind  keyKind
	name  string
	lower string
}

type keyKind uint8

const (
	noKey keyKind = iota
	byHeader
	byCookie
	issuedCookie
	clientAddr
)

func newKind(kind keyKind, name string) Key { return Key{kind, name, strings.ToLower(name)} }

// ByHeader is the value of a header.
func ByHeader(name string) Key { return newKind(byHeader, http.CanonicalHeaderKey(name)) }

// ByCookie is the value of a cookie that the application sets.
func ByCookie(name string) Key { return newKind(byCookie, name) }

// ByIssuedCookie is the value of a cookie that the proxy itself gives to clients
// that have none. It is a random number, says nothing about a pool, and ends
// with the browser's session.
func ByIssuedCookie(name string) Key { return newKind(issuedCookie, name) }

// ByClientAddr is the address of the client, without its port: the peer's, or, if
// that is trusted, the last one in X-Forwarded-For that is not. Clients at a Unix
// socket have none.
func ByClientAddr() Key { return Key{kind: clientAddr} }

// String returns what the key is, for people.
func (k Key) String() string {
	switch k.kind {
	case byHeader:
		return "header " + k.name
	case byCookie:
		return "cookie " + k.name
	case issuedCookie:
		return "issued cookie " + k.name
	case clientAddr:
		return "client address"
	}
	return "none"
}

func (k Key) check() error {
	if k.kind == noKey || k.kind == clientAddr {
		return nil
	}
	if k.name == "" {
		return fmt.Errorf("the key %q has no name", k)
	}
	for i := range len(k.name) {
		if !isToken[k.name[i]] {
			return fmt.Errorf("the name of the key %q has a character that headers and cookies cannot have", k)
		}
	}
	return nil
}

// cookieValue returns the value of a cookie in the value of a Cookie header.
func cookieValue[T ~string | ~[]byte](header T, name string) (value T, ok bool) {
	for len(header) > 0 {
		end := 0
		for end < len(header) && header[end] != ';' {
			end++
		}
		pair := header[:end]
		header = header[min(end+1, len(header)):]
		for len(pair) > 0 && (pair[0] == ' ' || pair[0] == '\t') {
			pair = pair[1:]
		}
		if len(pair) > len(name) && pair[len(name)] == '=' && string(pair[:len(name)]) == name {
			return pair[len(name)+1:], true
		}
	}
	return value, false
}

// of returns the key of a request of net/http, or "".
func (k Key) of(r *http.Request, client string) string {
	switch k.kind {
	case byHeader:
		if k.lower == "host" {
			return r.Host
		}
		return r.Header.Get(k.name)
	case byCookie, issuedCookie:
		for _, v := range r.Header["Cookie"] {
			if value, ok := cookieValue(v, k.name); ok && value != "" {
				return value
			}
		}
	case clientAddr:
		return client
	}
	return ""
}

// clientKey returns the key of a client, or nil if it has no address, as at a
// Unix socket: such clients are not told apart, so they are not kept together.
func clientKey(a netip.Addr) []byte {
	if !a.IsValid() {
		return nil
	}
	return a.AppendTo(nil)
}

// hashKey spreads keys evenly, the same way in every process, so that several
// proxies decide alike. It is FNV-1a with a finalizer (Murmur3's).
func hashKey[T ~string | ~[]byte](salt uint64, key T) uint64 {
	h := uint64(14695981039346656037) ^ salt
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// newKey returns the value of an issued cookie.
func newKey() string {
	const digits = "0123456789abcdefghijklmnopqrstuv"
	n := rand.Uint64()
	var b strings.Builder
	for range 13 {
		b.WriteByte(digits[n&31])
		n >>= 5
	}
	return b.String()
}
