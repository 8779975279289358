package proxy_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/weaverkit/weaverkit/proxy"
)

const (
	unusual    = "unusual"
	incomplete = "incomplete"
	complete   = "complete"
)

func verdict(p proxy.Parsed) string {
	switch {
	case p.Complete:
		return complete
	case p.Incomplete:
		return incomplete
	}
	return unusual
}

func TestParseRequest(t *testing.T) {
	field := func(f string) string { return "GET / HTTP/1.1\r\nHost: h\r\n" + f + "\r\n\r\n" }
	for _, test := range []struct{ name, head, want string }{
		{"nothing", "", incomplete},
		{"the beginning of a method", "PO", incomplete},
		{"a method and some", "POST /x", incomplete},
		{"no empty line", "GET / HTTP/1.1\r\nHost: h\r\n", incomplete},
		{"half an empty line", "GET / HTTP/1.1\r\nHost: h\r\n\r", incomplete},
		{"the least", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", complete},
		{"with what follows", "GET / HTTP/1.1\r\nHost: h\r\n\r\nGET", complete},
		{"OPTIONS", "OPTIONS /x?y=%20 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", complete},
		{"length 0", field("Content-Length: 0"), complete},
		{"length", field("Content-Length: 123456789012345678"), complete},
		{"length of 19 digits", field("Content-Length: 1234567890123456789"), unusual},
		{"length after a tab", field("Content-Length:\t5"), unusual},
		{"two lengths", field("Content-Length: 5\r\ncontent-length: 5"), unusual},
		{"no value", field("X:"), complete},
		{"no space", field("X:y"), complete},
		{"no name", field(": y"), unusual},
		{"no colon", field("X"), unusual},
		{"folded", field("X: y\r\n z"), unusual},
		{"close", field("Connection: Close"), complete},
		{"keep-alive", field("Connection: keep-alive"), complete},
		{"Connection with a list", field("Connection: close, x"), unusual},
		{"two Connections", field("Connection: close\r\nConnection: close"), unusual},
		{"Expect", field("Expect: 100-continue"), unusual},
		{"Upgrade", field("Upgrade: websocket"), unusual},
		{"TE", field("TE: trailers"), unusual},
		{"Trailer", field("Trailer: X"), unusual},
		{"Transfer-Encoding", field("Transfer-Encoding: chunked"), unusual},
		{"HTTP2-Settings", field("HTTP2-Settings: x"), unusual},
		{"Proxy-Authorization", field("Proxy-Authorization: x"), unusual},
		{"Proxy-Connection", field("Proxy-Connection: x"), unusual},
		{"a hundred fields", "GET / HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X: y\r\n", 99) + "\r\n", complete},
		{"101 fields", "GET / HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X: y\r\n", 100) + "\r\n", unusual},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", unusual},
		{"an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", unusual},
		{"two Hosts", field("Host: h"), unusual},
		{"a Host with a slash", "GET / HTTP/1.1\r\nHost: h/x\r\n\r\n", unusual},
		{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: h\r\n\r\n", unusual},
		{"HTTP/0.9", "GET /\r\n", unusual},
		{"LF", "GET / HTTP/1.1\nHost: h\n\n", unusual},
		{"LF in the end", "GET / HTTP/1.1\r\nHost: h\r\n\n", unusual},
		{"CR CR LF", field("X: y\r"), unusual},
		{"NUL", field("X: \x00"), unusual},
		{"UTF-8", field("X: é"), complete},
		{"CONNECT", "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", unusual},
		{"another method", "PROPFIND / HTTP/1.1\r\nHost: h\r\n\r\n", unusual},
		{"small letters", "get / HTTP/1.1\r\nHost: h\r\n\r\n", unusual},
		{"small letters, incomplete", "get", unusual},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", unusual},
		{"TLS", "\x16\x03\x01", unusual},
		{"absolute form", "GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", unusual},
		{"a fragment", "GET /#x HTTP/1.1\r\nHost: h\r\n\r\n", unusual},
		{"a bad escape", "GET /%2 HTTP/1.1\r\nHost: h\r\n\r\n", unusual},
		{"a space in the target", "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", unusual},
	} {
		t.Run(test.name, func(t *testing.T) {
			assert.Equal(t, test.want, verdict(proxy.ParseRequest([]byte(test.head))))
		})
	}
}

func TestParseResponse(t *testing.T) {
	field := func(f string) string { return "HTTP/1.1 200 OK\r\n" + f + "\r\n\r\n" }
	for _, test := range []struct {
		name, head, want string
		close, chunked   bool
		length           int64
	}{
		{"nothing", "", incomplete, false, false, 0},
		{"the least", "HTTP/1.1 200\r\n\r\n", complete, false, false, -1},
		{"no reason", "HTTP/1.1 200 \r\n\r\n", complete, false, false, -1},
		{"a reason in UTF-8", "HTTP/1.1 404 Überall nicht\r\n\r\n", complete, false, false, -1},
		{"length", field("Content-Length: 5"), complete, false, false, 5},
		{"two lengths", field("Content-Length: 5\r\nContent-Length: 5"), unusual, false, false, 0},
		{"chunked", field("Transfer-Encoding: Chunked"), complete, false, true, -1},
		{"chunked twice", field("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), unusual, false, false, 0},
		{"gzip, chunked", field("Transfer-Encoding: gzip, chunked"), unusual, false, false, 0},
		{"length and chunked", field("Content-Length: 5\r\nTransfer-Encoding: chunked"), unusual, false, false, 0},
		{"close", field("Connection: close"), complete, true, false, -1},
		{"close in a list", field("Connection: X, Close"), complete, true, false, -1},
		{"close in the second of two", field("Connection: X\r\nConnection: close"), complete, true, false, -1},
		{"keep-alive", field("Connection: keep-alive"), complete, false, false, -1},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\n", complete, true, false, -1},
		{"HTTP/1.0, keep-alive", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", complete, false, false, 5},
		{"HTTP/1.0, keep-alive in a list", "HTTP/1.0 200 OK\r\nConnection: x, keep-alive\r\nContent-Length: 5\r\n\r\n", complete, false, false, 5},
		{"HTTP/1.0, both", "HTTP/1.0 200 OK\r\nConnection: close, keep-alive\r\n\r\n", complete, true, false, -1},
		{"HTTP/1.0, chunked", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", unusual, false, false, 0},
		{"HTTP/1.2", "HTTP/1.2 200 OK\r\n\r\n", unusual, false, false, 0},
		{"HTTP/2", "HTTP/2 200\r\n\r\n", unusual, false, false, 0},
		{"status 99", "HTTP/1.1 099 OK\r\n\r\n", unusual, false, false, 0},
		{"status 600", "HTTP/1.1 600 OK\r\n\r\n", unusual, false, false, 0},
		{"status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", unusual, false, false, 0},
		{"status of two digits", "HTTP/1.1 20 OK\r\n\r\n", unusual, false, false, 0},
		{"two spaces", "HTTP/1.1  200 OK\r\n\r\n", unusual, false, false, 0},
		{"LF", "HTTP/1.1 200 OK\n\n", unusual, false, false, 0},
		{"folded", field("X: y\r\n z"), unusual, false, false, 0},
		{"NUL in the reason", "HTTP/1.1 200 O\x00K\r\n\r\n", unusual, false, false, 0},
		{"garbage", "hallo\r\n\r\n", unusual, false, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := proxy.ParseResponse([]byte(test.head))
			assert.Equal(t, test.want, verdict(got))
			if got.Complete {
				assert.Equal(t, test.close, got.Close)
				assert.Equal(t, test.chunked, got.Chunked)
				assert.Equal(t, test.length, got.Length)
			}
		})
	}
}
