// Package routing decides which replica owns which key.
package routing
