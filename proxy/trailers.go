package proxy

import (
	"maps"
	"net/http"
	"strings"
)

// mayTrail reports whether a field may come after a body: RFC 9110, section 6.5.1.
// Whoever acts on it later would have had to know it before: what matters to a
// proxy, modifies the request, authenticates it, or says what its body is.
func mayTrail(name []byte) bool {
	if fieldKindOf(name) != otherField {
		return false
	}
	switch name := strings.ToLower(string(name)); name {
	case "authorization", "www-authenticate", "set-cookie",
		"cache-control", "pragma", "max-forwards", "range",
		"content-encoding", "content-range", "content-type":
		return false
	default:
		return !strings.HasPrefix(name, "if-")
	}
}

// stripTrailers takes out of the trailers that a request announces those that are
// not passed on. What is not announced is not, either: see attemptBody.
func stripTrailers(announced http.Header, connection []string) {
	hops := []byte(strings.Join(connection, ","))
	maps.DeleteFunc(announced, func(name string, _ []string) bool {
		return !mayTrail([]byte(name)) || hasToken(hops, []byte(name))
	})
}
