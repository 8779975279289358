// Package wire speaks the protocol in which a weavelet and its deployer call
// each other, over connections that somebody else has made.
//
// Upstream has it in a package that is internal. What it offers publicly
// around it (deployers.ServeComponents, envelope.NewEnvelope) leaves a
// goroutine and a buffer behind for every weavelet that ever ran, and makes
// its own sockets. The encoding of arguments and results is upstream's, through
// the stubs that its generator made; the protocol is that of v0.24 and will
// not change. It is:
//
//	id       [8]byte       // chosen by the client; the answer has the same
//	kind     [1]byte       // version, request, response, error, cancel
//	length   [7]byte       // of what follows
//
//	version  [4]byte       // the first message of either side
//
//	length   [4]byte       // a request: the length of its header,
//	method   [16]byte      //   the header: SHA-256 of "component.Method",
//	timeout  int64         //   in microseconds, 0 for none,
//	trace    1 or 26 bytes //   a flag and a span context,
//	metadata               //   a flag and a map, not used here
//	args                   // and the encoded arguments
//
// All integers are little endian.
package wire
