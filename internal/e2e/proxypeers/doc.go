// Package proxypeers tests package proxy with peers that others wrote: curl,
// gRPC's client and server, a WebSocket library's, x/net's HTTP/2, and nginx. It
// is a module of its own so that these stay out of the kit's requirements.
//
// Tests that need a program which is not there are skipped, and say so; they fail
// instead if CI is set in the environment: .ci/run installs them.
package proxypeers
