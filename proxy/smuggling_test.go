package proxy_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weaverkit/weaverkit/proxy"
)

// An attack is bytes whose requests one reader may see where another does not.
// The techniques are those of Watchfire (2005), of Kettle's "HTTP Desync
// Attacks" (2019), "HTTP/2: The Sequel is Always Worse" (2021), "Browser-Powered
// Desync Attacks" (2022), and of the "Funky Chunks" and "TE.0" series (2024,
// 2025).
type attack struct {
	name string
	raw  string

	// passes are the targets of the requests that may get to a backend, in
	// their order. Whatever comes after them must be refused, unless whole is
	// set: then there is nothing after them, and the connection goes on.
	passes []string
	whole  bool
}

// preface is what a client of HTTP/2 sends first.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"

func refused(name, raw string) attack { return attack{name: name, raw: raw} }

func passed(name, raw string, targets ...string) attack {
	return attack{name: name, raw: raw, passes: targets, whole: true}
}

// then is for what is passed on before something that is refused.
func then(name, raw string, targets ...string) attack {
	return attack{name: name, raw: raw, passes: targets}
}

// post is a POST to /a with more header fields, and what comes after its head.
func post(fields, rest string) string {
	return "POST /a HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n" + rest
}

func getHead(fields string) string { return "GET /a HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n" }

func attacks() []attack {
	chunked := "0\r\n\r\n" + smuggled
	list := []attack{
		// Both lengths.
		refused("CL.TE", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG"+smuggled)),
		refused("TE.CL", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "28\r\n"+smuggled+"\r\n0\r\n\r\n")),
		refused("CL.TE in GET", getHead("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")+chunked),
		refused("TE with CL 0", post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", chunked)),

		// Content-Length.
		refused("CL twice, different", post("Content-Length: 0\r\nContent-Length: 35\r\n", smuggled)),
		refused("CL twice, same", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hallo"+smuggled)),
		refused("CL list", post("Content-Length: 5, 5\r\n", "hallo"+smuggled)),
		refused("CL list, different", post("Content-Length: 0, 35\r\n", smuggled)),
		refused("CL negative", post("Content-Length: -1\r\n", smuggled)),
		refused("CL plus", post("Content-Length: +5\r\n", "hallo"+smuggled)),
		refused("CL hex", post("Content-Length: 0x5\r\n", "hallo"+smuggled)),
		refused("CL with underscore", post("Content-Length: 1_0\r\n", smuggled)),
		refused("CL empty", post("Content-Length:\r\n", smuggled)),
		refused("CL of space", post("Content-Length:  \t \r\n", smuggled)),
		refused("CL with a space within", post("Content-Length: 3 6\r\n", smuggled)),
		refused("CL too large", post("Content-Length: 18446744073709551616\r\n", smuggled)),
		refused("CL too large for int64", post("Content-Length: 9223372036854775808\r\n", smuggled)),
		refused("CL with a fraction", post("Content-Length: 0.0\r\n", smuggled)),
		refused("CL with vertical tab", post("Content-Length: \x0b5\r\n", "hallo"+smuggled)),
		refused("CL with form feed", post("Content-Length: 5\x0c\r\n", "hallo"+smuggled)),
		refused("CL with no-break space", post("Content-Length: 5\u00a0\r\n", "hallo"+smuggled)),
		refused("CL in Arabic digits", post("Content-Length: ٥\r\n", "hallo"+smuggled)),
		passed("CL with zeros first", post("Content-Length: 0005\r\n", "hallo"+smuggled), "/a", "/smuggled"),
		passed("CL with tabs around", post("Content-Length:\t5\t\r\n", "hallo"), "/a"),
		passed("CL in GET", getHead("Content-Length: 35\r\n")+smuggled, "/a"),
		passed("CL in HEAD", "HEAD /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhallo", "/a"),
		passed("CL under another name", post("Content_Length: 36\r\nContent-Length: 5\r\n", "hallo"), "/a"),

		// Transfer-Encoding.
		refused("TE identity", post("Transfer-Encoding: identity\r\n", chunked)),
		refused("TE unknown", post("Transfer-Encoding: xchunked\r\n", chunked)),
		refused("TE gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", chunked)),
		refused("TE chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", chunked)),
		refused("TE chunked, chunked", post("Transfer-Encoding: chunked, chunked\r\n", chunked)),
		refused("TE list with nothing", post("Transfer-Encoding: , chunked\r\n", chunked)),
		refused("TE twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunked)),
		refused("TE twice, one unknown", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n", chunked)),
		refused("TE twice, in two cases", post("Transfer-Encoding: chunked\r\ntransfer-encoding: identity\r\n", chunked)),
		refused("TE empty", post("Transfer-Encoding:\r\n", chunked)),
		refused("TE quoted", post("Transfer-Encoding: \"chunked\"\r\n", chunked)),
		refused("TE with parameter", post("Transfer-Encoding: chunked;a=b\r\n", chunked)),
		refused("TE with vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", chunked)),
		refused("TE with form feed", post("Transfer-Encoding: chunked\x0c\r\n", chunked)),
		refused("TE with NUL", post("Transfer-Encoding: chunked\x00\r\n", chunked)),
		refused("TE with DEL", post("Transfer-Encoding: chunked\x7f\r\n", chunked)),
		refused("TE with no-break space", post("Transfer-Encoding: chunked\u00a0\r\n", chunked)),
		refused("TE with a Turkish K", post("Transfer-Encoding: chun\u212Aed\r\n", chunked)),
		refused("TE with a space before the colon", post("Transfer-Encoding : chunked\r\n", chunked)),
		refused("TE with a tab before the colon", post("Transfer-Encoding\t: chunked\r\n", chunked)),
		refused("TE with a space before it", post("X: y\r\n Transfer-Encoding: chunked\r\n", chunked)),
		refused("TE with a bare CR before it", post("X: y\rTransfer-Encoding: chunked\r\n", chunked)),
		refused("TE with a bare LF before it", post("X: y\nTransfer-Encoding: chunked\r\n", chunked)),
		refused("TE folded", post("Transfer-Encoding:\r\n chunked\r\n", chunked)),
		refused("TE folded with a tab", post("Transfer-Encoding:\r\n\tchunked\r\n", chunked)),
		refused("TE folded at its end", post("Transfer-Encoding: chunked\r\n ,identity\r\n", chunked)),
		refused("TE in HTTP/1.0", "POST /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"+chunked),
		refused("TE and CL in HTTP/1.0", "POST /a HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"+chunked),
		passed("TE in capitals", post("TRANSFER-ENCODING: CHUNKED\r\n", chunked), "/a", "/smuggled"),
		passed("TE with tabs around", post("Transfer-Encoding:\tchunked\t\r\n", chunked), "/a", "/smuggled"),
		passed("TE under another name", post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), "/a"),
		passed("TE in GET", getHead("Transfer-Encoding: chunked\r\n")+chunked, "/a", "/smuggled"),

		// Chunks. What was passed on before one of them was seen is cut.
		refused("chunk size with 0x", post("Transfer-Encoding: chunked\r\n", "0x5\r\nhallo\r\n"+chunked)),
		refused("chunk size negative", post("Transfer-Encoding: chunked\r\n", "-5\r\nhallo\r\n"+chunked)),
		refused("chunk size plus", post("Transfer-Encoding: chunked\r\n", "+5\r\nhallo\r\n"+chunked)),
		refused("chunk size empty", post("Transfer-Encoding: chunked\r\n", "\r\n"+chunked)),
		refused("chunk size of an extension only", post("Transfer-Encoding: chunked\r\n", ";a=b\r\n"+chunked)),
		refused("chunk size with a space before it", post("Transfer-Encoding: chunked\r\n", " 5\r\nhallo\r\n"+chunked)),
		refused("chunk size with underscore", post("Transfer-Encoding: chunked\r\n", "0_5\r\nhallo\r\n"+chunked)),
		refused("chunk size that overflows 64 bits", post("Transfer-Encoding: chunked\r\n", "10000000000000000\r\n"+chunked)),
		refused("chunk size that overflows to 5", post("Transfer-Encoding: chunked\r\n", "10000000000000005\r\nhallo\r\n"+chunked)),
		refused("chunk size of many zeros", post("Transfer-Encoding: chunked\r\n", strings.Repeat("0", 300)+"5\r\nhallo\r\n"+chunked)),
		refused("chunk size that ends with LF", post("Transfer-Encoding: chunked\r\n", "5\nhallo\r\n"+chunked)),
		refused("chunk size that ends with CR", post("Transfer-Encoding: chunked\r\n", "5\rhallo\r\n"+chunked)),
		refused("chunk size that ends with CR CR LF", post("Transfer-Encoding: chunked\r\n", "5\r\r\nhallo\r\n"+chunked)),
		refused("chunk data that ends with LF", post("Transfer-Encoding: chunked\r\n", "5\r\nhallo\n"+chunked)),
		refused("chunk data that ends with CR", post("Transfer-Encoding: chunked\r\n", "5\r\nhallo\r"+chunked)),
		refused("chunk data that ends with anything", post("Transfer-Encoding: chunked\r\n", "5\r\nhalloXX"+chunked)),
		refused("chunk data that is longer", post("Transfer-Encoding: chunked\r\n", "4\r\nhallo\r\n"+chunked)),
		refused("chunk extension with LF", post("Transfer-Encoding: chunked\r\n", "5;a\nhallo\r\n"+chunked)),
		refused("chunk extension with CR", post("Transfer-Encoding: chunked\r\n", "5;a\rb\r\nhallo\r\n"+chunked)),
		refused("chunk extension with NUL", post("Transfer-Encoding: chunked\r\n", "5;a=\x00\r\nhallo\r\n"+chunked)),
		refused("chunk extension without end", post("Transfer-Encoding: chunked\r\n", "5;"+strings.Repeat("a", 70000)+"\r\nhallo\r\n"+chunked)),
		refused("chunk 0 that ends with LF", post("Transfer-Encoding: chunked\r\n", "0\n\r\n"+smuggled)),
		refused("end that is LF", post("Transfer-Encoding: chunked\r\n", "0\r\n\n"+smuggled)),
		passed("chunk extension", post("Transfer-Encoding: chunked\r\n", "5;a=\"b;c\"\r\nhallo\r\n"+chunked), "/a", "/smuggled"),

		// Trailers.
		passed("trailers with lengths", post("Transfer-Encoding: chunked\r\n", "0\r\nContent-Length: 35\r\nTransfer-Encoding: x\r\n\r\n"+smuggled), "/a", "/smuggled"),
		passed("trailer with CL, announced", post("Transfer-Encoding: chunked\r\nTrailer: X\r\n", "0\r\nX: y\r\nHost: z\r\n\r\n"+smuggled), "/a", "/smuggled"),
		refused("Trailer that names CL", post("Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n", "0\r\nContent-Length: 35\r\n\r\n"+smuggled)),
		refused("trailer without colon", post("Transfer-Encoding: chunked\r\n", "0\r\nabc\r\n\r\n"+smuggled)),
		refused("trailer with LF", post("Transfer-Encoding: chunked\r\n", "0\r\na: b\nc: d\r\n\r\n"+smuggled)),
		refused("trailer with NUL", post("Transfer-Encoding: chunked\r\n", "0\r\na: \x00\r\n\r\n"+smuggled)),
		refused("trailer with a space before the colon", post("Transfer-Encoding: chunked\r\n", "0\r\na : b\r\n\r\n"+smuggled)),
		refused("trailer, folded", post("Transfer-Encoding: chunked\r\n", "0\r\na: b\r\n c\r\n\r\n"+smuggled)),
		refused("trailers without end", post("Transfer-Encoding: chunked\r\n", "0\r\n"+strings.Repeat("a: b\r\n", 20000)+"\r\n"+smuggled)),

		// Lines.
		refused("LF for CRLF", "GET /a HTTP/1.1\nHost: h\n\n"+smuggled),
		refused("LF after the first line", "GET /a HTTP/1.1\nHost: h\r\n\r\n"+smuggled),
		refused("LF for the empty line", "GET /a HTTP/1.1\r\nHost: h\r\n\n"+smuggled),
		refused("CR for CRLF", "GET /a HTTP/1.1\rHost: h\r\r\n"+"\r\n"+smuggled),
		refused("CR CR LF", "GET /a HTTP/1.1\r\nHost: h\r\r\n\r\n"+smuggled),
		refused("CR in a value", getHead("X: a\rb\r\n")+smuggled),
		refused("NUL in a value", getHead("X: a\x00b\r\n")+smuggled),
		refused("NUL in a name", getHead("X\x00: a\r\n")+smuggled),
		refused("BEL in a value", getHead("X: a\x07b\r\n")+smuggled),
		refused("a field without colon", getHead("X\r\n")+smuggled),
		refused("a field without name", getHead(": x\r\n")+smuggled),
		refused("a space before the colon", getHead("X : y\r\n")+smuggled),
		refused("a name in UTF-8", getHead("Xé: y\r\n")+smuggled),
		refused("a name in quotes", getHead("\"X\": y\r\n")+smuggled),
		refused("folded", getHead("X: y\r\n z\r\n")+smuggled),
		refused("folded first", "GET /a HTTP/1.1\r\n X: y\r\nHost: h\r\n\r\n"+smuggled),
		refused("a line of spaces", getHead("   \r\n")+smuggled),
		passed("a value in UTF-8", getHead("X: é\r\n"), "/a"),
		passed("empty lines before", "\r\n\r\n"+getHead(""), "/a"),

		// First lines.
		refused("HTTP/0.9", "GET /a\r\n"+smuggled),
		refused("HTTP/0.9 with version", "GET /a HTTP/0.9\r\nHost: h\r\n\r\n"+smuggled),
		refused("HTTP/1.2", "GET /a HTTP/1.2\r\nHost: h\r\n\r\n"+smuggled),
		refused("HTTP/2.0", "GET /a HTTP/2.0\r\nHost: h\r\n\r\n"+smuggled),
		refused("HTTP/1.10", "GET /a HTTP/1.10\r\nHost: h\r\n\r\n"+smuggled),
		refused("HTTP/01.1", "GET /a HTTP/01.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("http/1.1", "GET /a http/1.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("two spaces before the target", "GET  /a HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("two spaces after the target", "GET /a  HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("a tab after the method", "GET\t/a HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("a space after the version", "GET /a HTTP/1.1 \r\nHost: h\r\n\r\n"+smuggled),
		refused("a space before the method", " GET /a HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("a space in the target", "GET /a HTTP/1.1\r\nX: /b HTTP/1.1\r\nHost: h\r\nGET /smuggled HTTP/1.1\r\n\r\n"),
		refused("a whole request as target", "GET /a HTTP/1.1 GET /b HTTP/1.1\r\nHost: h\r\n\r\n"),
		refused("NUL in the target", "GET /a\x00 HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("a bad escape in the target", "GET /a%zz HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("no target", "GET HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("a target without slash", "GET a HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("no method", " /a HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("a method that is no token", "G(T /a HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
		refused("CONNECT", "CONNECT internal:22 HTTP/1.1\r\nHost: internal:22\r\n\r\n"+smuggled),
		refused("CONNECT with a body", "CONNECT internal:22 HTTP/1.1\r\nHost: internal:22\r\nContent-Length: 5\r\n\r\nhallo"+smuggled),
		passed("absolute form", "GET http://h/a HTTP/1.1\r\nHost: other\r\n\r\n"+smuggled, "/a", "/smuggled"),
		passed("absolute form with another scheme", "GET gopher://h/a HTTP/1.1\r\nHost: h\r\n\r\n", "/a"),
		passed("absolute form without host", "GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled, "/a", "/smuggled"),
		passed("two slashes", "GET //h/a HTTP/1.1\r\nHost: h\r\n\r\n", "//h/a"),
		passed("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "*"),
		passed("a method in small letters", "get /a HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled, "/a", "/smuggled"),

		// Hosts.
		refused("no Host", "GET /a HTTP/1.1\r\nX: y\r\n\r\n"+smuggled),
		refused("two Hosts", getHead("Host: other\r\n")+smuggled),
		refused("two Hosts, same", getHead("Host: h\r\n")+smuggled),
		refused("two Hosts, one with a space", getHead("Host : other\r\n")+smuggled),
		refused("Host folded", "GET /a HTTP/1.1\r\nHost:\r\n h\r\n\r\n"+smuggled),
		refused("Host with a space", "GET /a HTTP/1.1\r\nHost: h x\r\n\r\n"+smuggled),
		refused("Host with a slash", "GET /a HTTP/1.1\r\nHost: h/x\r\n\r\n"+smuggled),
		refused("Host with an at", "GET /a HTTP/1.1\r\nHost: u@h\r\n\r\n"+smuggled),
		refused("Host with quotes", "GET /a HTTP/1.1\r\nHost: \"h\"\r\n\r\n"+smuggled),

		// Others.
		refused("a huge head", getHead("X: "+strings.Repeat("y", 90<<10)+"\r\n")+smuggled),
		refused("a huge target", "GET /"+strings.Repeat("y", 90<<10)+" HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled),
		refused("many fields", getHead(strings.Repeat("X: y\r\n", 20000))+smuggled),
		passed("a big head", getHead("X: "+strings.Repeat("y", 40<<10)+"\r\n")+smuggled, "/a", "/smuggled"),
		passed("110 fields", getHead(strings.Repeat("X: y\r\n", 110))+smuggled, "/a", "/smuggled"),
		then("the preface of HTTP/2, later", getHead("")+preface+smuggled, "/a"),
		refused("HTTP/2's method", "PRI * HTTP/2.0\r\nHost: h\r\n\r\n"+smuggled),
		refused("HTTP/2's method in HTTP/1.1", "PRI * HTTP/1.1\r\nHost: h\r\n\r\n"+smuggled),
		passed("pipelined", getHead("")+post("Content-Length: 5\r\n", "hallo")+post("Transfer-Encoding: chunked\r\n", "1\r\nx\r\n0\r\n\r\n")+smuggled,
			"/a", "/a", "/a", "/smuggled"),
		then("pipelined, the second bad", getHead("")+getHead("X : y\r\n")+smuggled, "/a"),
		then("pipelined, CL.TE", getHead("")+post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG")+smuggled, "/a"),
		then("Upgrade, and more", getHead("Connection: Upgrade\r\nUpgrade: x\r\n")+"GET /smuggled HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", "/a"),
		then("two Upgrades, and more", getHead("Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: x\r\n")+"POST /smuggled HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "/a"),
		then("an empty Upgrade, and more", getHead("Upgrade:\r\n")+"POST /smuggled HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "/a"),
		passed("Upgrade: h2c", getHead("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n")+smuggled, "/a", "/smuggled"),
		passed("Connection names Content-Length", post("Connection: Content-Length\r\nContent-Length: 5\r\n", "hallo")+smuggled, "/a", "/smuggled"),
		passed("Connection names Transfer-Encoding", post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", chunked), "/a", "/smuggled"),
		passed("Connection names Host", getHead("Connection: Host\r\n")+smuggled, "/a", "/smuggled"),
		passed("Expect and a body that is there", post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hallo")+smuggled, "/a", "/smuggled"),
		refused("Expect something else", post("Expect: 200-ok\r\nContent-Length: 5\r\n", "hallo")+smuggled),
	}
	return list
}

// TestSmuggling sends each attack as the first of a connection, and on one that
// net/http has, in one piece and byte by byte. Another client must get the answer
// to its own request meanwhile and after that.
func TestSmuggling(t *testing.T) {
	list := attacks()
	inParallel(len(list), func(i int) {
		for _, slow := range []bool{false, true} {
			for _, pieces := range []bool{false, true} {
				if a := list[i]; !pieces || len(a.raw) <= 4096 {
					t.Run(fmt.Sprintf("%s/slow=%v/pieces=%v", a.name, slow, pieces), func(t *testing.T) {
						testAttack(t, a, slow, pieces)
					})
				}
			}
		}
	})
}

func testAttack(t *testing.T, a attack, slow, pieces bool) {
	backend := newRecorder(t)
	f := serve(t, proxy.Options{}, backend.addr)
	other := dial(t, f.addr)
	otherReader := bufio.NewReader(other)
	bystand := func() {
		t.Helper()
		resp := ask(t, other, otherReader, "GET /other HTTP/1.1\r\nHost: h\r\n\r\n")
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "/other", resp.Header.Get("X-Target"))
	}
	bystand()

	c := dial(t, f.addr)
	br := bufio.NewReader(c)
	if slow {
		toSlowPath(t, c, br)
	}
	backend.take()
	if pieces {
		for i := range len(a.raw) {
			if _, err := c.Write([]byte{a.raw[i]}); err != nil {
				break // the proxy has refused it already
			}
		}
	} else {
		_, _ = io.WriteString(c, a.raw) // as above
	}
	bystand()

	method, _, _ := strings.Cut(strings.TrimLeft(a.raw, "\r\n"), " ")

	// What comes back is the answers to what may pass, and then a refusal.
	for _, target := range a.passes {
		resp, err := readFinal(br, method)
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode, "%s", resp.body)
		require.Equal(t, target, resp.Header.Get("X-Target"))
	}
	if a.whole {
		resp := ask(t, c, br, "GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		require.Equal(t, "/last", resp.Header.Get("X-Target"))
		requireEnd(t, br)
	} else {
		resp, err := readFinal(br, "GET")
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF) && len(a.passes) > 0: // it was the last one
		default:
			require.NoError(t, err)
			assert.GreaterOrEqual(t, resp.StatusCode, 400)
			assert.Empty(t, resp.Header.Get("X-Target"))
			_, err = br.ReadByte()
			require.Error(t, err, "more comes after the refusal")
			require.False(t, isTimeout(err), "the connection is still open")
		}
	}
	bystand()

	seen, _, odd := backend.take()
	assert.Empty(t, odd)
	var targets []string
	for _, s := range seen {
		if s.target != "/other" && s.target != "/last" {
			targets = append(targets, s.target)
		}
		for _, name := range []string{"Upgrade", "HTTP2-Settings"} {
			assert.NotContains(t, strings.Join(s.values(name), ","), "h2c")
		}
	}
	if len(a.passes) > 0 {
		assert.Equal(t, a.passes, targets)
	} else {
		assert.Empty(t, targets)
	}
}

// readFinal reads a response that is not interim.
func readFinal(br *bufio.Reader, method string) (response, error) {
	for {
		resp, err := readResponse(br, method)
		if err != nil || resp.StatusCode >= 200 {
			return resp, err
		}
	}
}

// TestPrefaceWithTLS checks that HTTP/2's preface, which is no request, does not
// pass where HTTP/1.1 was agreed on.
func TestPrefaceWithTLS(t *testing.T) {
	cert, roots := certificate(t)
	backend := newRecorder(t)
	f := serve(t, proxy.Options{GetCertificate: cert}, backend.addr)
	c := tls.Client(dial(t, f.addr), &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}})
	send(t, c, preface)
	br := bufio.NewReader(c)
	resp, err := readFinal(br, "GET")
	require.NoError(t, err)
	require.Equal(t, 400, resp.StatusCode)
	seen, cut, odd := backend.take()
	require.Empty(t, seen)
	require.Zero(t, cut)
	require.Empty(t, odd)
}

// TestScreenPieces: what comes byte by byte is read as what comes at once, an
// empty line before it included.
func TestScreenPieces(t *testing.T) {
	f := serve(t, proxy.Options{}, newRecorder(t).addr)
	c := dial(t, f.addr)
	br := bufio.NewReader(c)
	toSlowPath(t, c, br)
	for range 3 {
		for _, b := range "\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\n" {
			send(t, c, string(b))
			time.Sleep(time.Millisecond)
		}
		resp, err := readResponse(br, "GET")
		require.NoError(t, err)
		require.Equal(t, "/a", resp.Header.Get("X-Target"))
	}
}

// An attack over HTTP/2 is a request that would be another one, or more than one,
// in the words of HTTP/1.1. It is refused, or gets to the backend as one with that
// target.
type attackHTTP2 struct {
	name   string
	fields []string // names and values
	body   string
	passes string
}

func attacksHTTP2() (list []attackHTTP2) {
	refused := func(name string, fields ...string) {
		list = append(list, attackHTTP2{name: name, fields: fields})
	}
	// with is a GET of /a with some fields, and others in place of its own.
	with := func(fields ...string) []string {
		all := []string{":method", "GET", ":scheme", "http", ":authority", "h", ":path", "/a"}
		for i := 0; i < len(fields); i += 2 {
			at := -1
			for j := 0; j < 8; j += 2 {
				if all[j] == fields[i] {
					at = j
				}
			}
			if at < 0 {
				all = append(all, fields[i], fields[i+1])
			} else {
				all[at+1] = fields[i+1]
			}
		}
		return all
	}
	passes := func(name, target string, fields ...string) {
		list = append(list, attackHTTP2{name: name, fields: fields, passes: target})
	}

	// What would be in the first line.
	for _, path := range []string{
		"/a HTTP/1.1\r\nHost: h\r\n\r\nGET /smuggled", "/a HTTP/1.1\r\nX: y", "/a HTTP/1.1", "/a? HTTP/1.1", "/a b", "/a?b c",
		"/a\tb", "/a?\tb", "/a\r", "/a?\r\n", "/a\n", "/a\x00", "/a?\x7f", "/a#b", "/a?b#c", "/a?\"", "/a?<>", "/a\x80", "/a?\xff",
		"/a%zz", "", "a", "?a", "*", "//\r\nx", "http://h/a", "http://evil/a",
	} {
		refused(fmt.Sprintf("path %q", path), with(":path", path)...)
	}
	for _, method := range []string{"GET /smuggled HTTP/1.1\r\nX: y\r\n\r\nGET", "GET /b", "GET\t", "G(T", "", "PRI", "CONNECT", "G\x00T"} {
		refused(fmt.Sprintf("method %q", method), with(":method", method)...)
	}
	refused("scheme", with(":scheme", "http://evil/\r\n")...)
	passes("what browsers leave", "/a?b={[|^`\\]}'", with(":path", "/a?b={[|^`\\]}'")...)
	passes("two slashes", "//h/a", with(":path", "//h/a")...)
	passes("OPTIONS *", "*", with(":method", "OPTIONS", ":path", "*")...)

	// Hosts.
	for _, host := range []string{"h\r\nX: y", "h\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h", "h x", "h/x", "u@h", "h\x00", "h#", "h\t", "\"h\""} {
		refused(fmt.Sprintf("authority %q", host), with(":authority", host)...)
		refused(fmt.Sprintf("host %q", host), ":method", "GET", ":scheme", "http", ":path", "/a", "host", host)
	}
	refused("another Host", with("host", "evil")...)
	refused("two Hosts", with("host", "h", "host", "evil")...)
	passes("the same Host", "/a", with("host", "h")...)

	// Fields.
	for _, name := range []string{"x\r\nhost", "x: y\r\nhost", "x\n", "x\r", "x\x00", "x ", " x", "x:", "x\ty", "X", "", "x\x7f", "é"} {
		refused(fmt.Sprintf("name %q", name), with(name, "z")...)
	}
	for _, value := range []string{"y\r\nhost: evil", "y\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n", "y\rz", "y\nz", "y\x00z", "y\x7f"} {
		refused(fmt.Sprintf("value %q", value), with("x", value)...)
		refused(fmt.Sprintf("cookie %q", value), with("cookie", value)...)
	}
	refused("a pseudo field after another", append(with("x", "y"), ":path", "/b")...)
	refused("two paths", append(with(), ":path", "/b")...)
	refused("an unknown pseudo field", append([]string{":x", "y"}, with()...)...)
	refused("no method", ":scheme", "http", ":authority", "h", ":path", "/a")
	refused("no path", ":method", "GET", ":scheme", "http", ":authority", "h")
	for _, f := range []string{"connection: close", "connection: x-forwarded-for", "keep-alive: 5", "proxy-connection: close", "upgrade: h2c", "upgrade: websocket",
		"transfer-encoding: chunked", "transfer-encoding: identity", "te: gzip"} {
		name, value, _ := strings.Cut(f, ": ")
		refused(f, with(name, value)...)
	}

	// Lengths.
	body := func(name, body, passes string, fields ...string) {
		list = append(list, attackHTTP2{name, with(append([]string{":method", "POST"}, fields...)...), body, passes})
	}
	body("a body", "hallo", "/a", "content-length", "5")
	body("a body without length", "hallo", "/a")
	body("more than its length", "0\r\n\r\n"+smuggled, "", "content-length", "5")
	body("less than its length", "hal", "", "content-length", "5")
	body("chunked", "0\r\n\r\n"+smuggled, "", "transfer-encoding", "chunked")
	body("two lengths", "hallo", "", "content-length", "5", "content-length", "3")
	body("a length with a sign", "hallo", "", "content-length", "+5")
	body("a length with a line", "hallo", "", "content-length", "5\r\nx: y")
	refused("a length without a body", with("content-length", "5")...)
	return list
}

// TestSmugglingHTTP2 sends each attack over HTTP/2.
func TestSmugglingHTTP2(t *testing.T) {
	list := attacksHTTP2()
	inParallel(len(list), func(i int) {
		t.Run(list[i].name, func(t *testing.T) { testAttackHTTP2(t, list[i]) })
	})
}

func testAttackHTTP2(t *testing.T, a attackHTTP2) {
	backend := newRecorder(t)
	f := serve(t, proxy.Options{}, backend.addr)
	c, br := openHTTP2(t, f.addr)
	frames := h2Head(1, a.fields...)
	if a.body != "" {
		frames = h2Frame{h2Headers, h2EndHeaders, 1, h2Fields(a.fields...)}.bytes()
		frames = append(frames, h2Frame{h2Data, h2EndStream, 1, []byte(a.body)}.bytes()...)
	}
	_, err := c.Write(frames)
	require.NoError(t, err)
	switch got := hearHTTP2(t, br, 1); {
	case a.passes != "":
		require.EqualValues(t, h2Headers, got.kind, "%+v", got)
		require.EqualValues(t, h2OK, got.payload[0], "%+v", got)
	case got.kind == h2Headers:
		require.NotEqualValues(t, h2OK, got.payload[0], "%q", got.payload)
	default:
		require.Contains(t, []byte{h2Reset, h2GoAway}, got.kind)
	}

	// Another request on the same connection to the backend is the next there.
	other := dial(t, f.addr)
	resp := ask(t, other, bufio.NewReader(other), "GET /other HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n")
	require.Equal(t, "/other", resp.Header.Get("X-Target"))
	seen, _, odd := backend.take()
	require.Empty(t, odd)
	var targets []string
	for _, s := range seen {
		targets = append(targets, s.target)
		require.Equal(t, []string{"h"}, s.values("Host"))
		require.Empty(t, s.values("Upgrade"))
	}
	if a.passes != "" {
		require.Equal(t, []string{a.passes, "/other"}, targets)
	} else {
		require.Equal(t, []string{"/other"}, targets)
	}
}
