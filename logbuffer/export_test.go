package logbuffer

// Waiters returns how many waiters are on the list of a buffer. No reader may
// be about to block.
func Waiters[T any](b *Buffer[T]) int {
	n := 0
	for w := b.log.head.Load(); w != nil; w = w.next {
		n++
	}
	return n
}

// WriteStale writes as a writer does that another one has got in front of.
func WriteStale[T any](b *Buffer[T]) {
	c := b.log.tail.Load()
	s := c.state.Load()
	var entry T
	b.Write(entry)
	c.publish(s, one)
}
