package logbuffer

// Blocked returns how many readers of a buffer are blocked.
func Blocked[T any](b *Buffer[T]) int {
	n := 0
	for i := range b.log.shards {
		if s := b.log.shards[i].Load(); s != nil {
			s.mu.Lock()
			n += s.blocked
			s.mu.Unlock()
		}
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
