//go:build !linux

package proxy

// A lot is where idle connections wait without a goroutine; here is none.
type lot struct{}

func newLot(func(*conn)) *lot      { return nil }
func (*lot) park(*conn) bool       { return false }
func (*lot) take(*conn) bool       { return false }
func (*lot) close() (left []*conn) { return nil }
