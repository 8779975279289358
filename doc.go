// Package weaverkit is the root of a kit of building blocks for Service Weaver
// deployers. It holds no code: import the packages below it, each of which
// works alone.
//
//   - [github.com/weaverkit/weaverkit/envelopekit]: what runs where, and what
//     it is told.
//
// See README.md for a first use and ARCHITECTURE.md for how the parts meet.
package weaverkit
