// Package weaverkit is the root of a kit of building blocks for Service Weaver
// deployers. It holds no code: import the packages below it, each of which
// works alone.
//
//   - [github.com/weaverkit/weaverkit/envelopekit]: what runs where, and what
//     it is told.
//   - [github.com/weaverkit/weaverkit/routing]: which replica owns which key.
//   - [github.com/weaverkit/weaverkit/health]: is it well, and how sure are we.
//   - [github.com/weaverkit/weaverkit/proxy]: which backend gets this request.
//   - [github.com/weaverkit/weaverkit/rollout]: which version gets how much, and
//     why not yet.
//   - [github.com/weaverkit/weaverkit/logbuffer]: who said what, to any number
//     of followers.
//
// See README.md for a first use and ARCHITECTURE.md for how the parts meet.
package weaverkit
