// Package logbuffer is an in-memory log that one writer fills and any number
// of readers follow, each at its own pace.
//
// A deployer keeps one buffer per weavelet, job or rollout, and hangs
// terminals, dashboards, files and exporters on it:
//
//	buf, err := logbuffer.New[Entry](logbuffer.Options{})
//	...
//	buf.Write(entry)                   // the writer: never waits for a reader
//	...
//	r := buf.Tail(10)                  // a follower: the last ten, then what comes
//	defer r.Close()
//	for entry, missed := range r.All(ctx) {
//		if missed > 0 {
//			fmt.Printf("... %d entries lost\n", missed)
//		}
//		fmt.Println(entry)
//	}
//
// [Buffer] holds entries of any type. [Lines] holds raw lines of output, is an
// [io.Writer], and is bounded in bytes. [Merge] turns the readers of many
// buffers, which may come and go, into one ordered stream.
//
// # Guarantees
//
//   - Order. Every reader sees the entries in the order in which they were
//     written. Entries are numbered from 0; [Reader.Seq] tells where a reader
//     stands and [Buffer.FromSeq] resumes there.
//   - Bounded memory. A buffer keeps the newest entries and lets the oldest go,
//     a chunk at a time: it never retains more than Chunks × ChunkSize entries
//     and, once that many have been written, never fewer than
//     (Chunks − 1) × ChunkSize.
//   - Exact loss. A reader that has fallen behind what is retained skips to the
//     oldest retained entry and is told how many entries it missed, at the
//     place where they are missing. For a reader that began at the first entry,
//     and has read to the end, entries seen + entries missed = entries written.
//   - No lost wake-up. A blocked Read returns when there is an entry for it,
//     when its context ends, or when the buffer is closed; whatever the order
//     in which these happen.
//   - A clean end. After Close a write is refused with [ErrClosed] and stores
//     nothing, and readers drain what is retained before they get [io.EOF].
//   - Readers cost the writer nothing. While no reader is blocked a write takes
//     no lock, and its cost does not depend on how many readers there are. A
//     write that finds blocked readers wakes one of them, and these wake each
//     other. A reader that stalls, or is dropped without Close, pins one chunk
//     at most.
//   - No goroutines. The package starts none of its own; a cancelled context
//     runs a short function through [context.AfterFunc], and a waiting Merge
//     uses one timer.
//
// # What is left to you
//
// One goroutine at a time may write, unless Options.MultiWriter is set, and one
// goroutine at a time may use a reader. Entries are shared, not cloned: an
// entry that holds pointers must not be changed once it has been written.
// Nothing is stamped with the time and nothing is stored on disk.
//
// # How it works
//
// A buffer is a linked list of fixed-size chunks. The writer fills the newest,
// and publishes each write by moving one atomic word of that chunk, which holds
// its length and whether it is sealed (full, and followed by another) or closed.
// The move is a compare-and-swap that nothing but Close, or a second writer,
// can make fail; so Close may come from any goroutine and still fall exactly
// between two writes, and a second writer is found out. A sealed chunk never
// changes. The oldest chunk is used again as the newest once no reader stands
// in it, so that a steady stream of entries allocates nothing.
//
// A reader that has caught up marks itself as waiting, looks at the newest chunk
// once more, and only then waits on a condition variable; the writer publishes
// first and looks for waiting readers second. One of the two sees the other.
// Blocked readers are spread over a few condition variables. A write wakes one
// reader, which passes the duty on to one at the next condition variable before
// it wakes the others at its own: a thousand readers cost the writer no more
// than one does, and all processors share the work of waking them.
//
// BENCHMARKS.md next to the source holds measured figures.
package logbuffer
