package logbuffer_test

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/weaverkit/weaverkit/logbuffer"
)

type Entry struct {
	Time int64
	Text string
}

// Follow a buffer from its first entry to its end.
func Example() {
	buf, err := logbuffer.New[Entry](logbuffer.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		for i := range 3 {
			buf.Write(Entry{Text: fmt.Sprint("hello ", i)})
		}
		buf.Close()
	}()
	r := buf.FromOldest()
	defer r.Close()
	for entry, missed := range r.All(context.Background()) {
		fmt.Println(entry.Text, missed)
	}
	// Output:
	// hello 0 0
	// hello 1 0
	// hello 2 0
}

// A reader that is too slow learns how much it missed, and where.
func ExampleReader_Read() {
	buf, _ := logbuffer.New[int](logbuffer.Options{ChunkSize: 4, Chunks: 2})
	r := buf.FromOldest()
	defer r.Close()
	dst := make([]int, 3)
	for i := range 13 {
		buf.Write(i)
		if i == 5 {
			n, missed, _ := r.Read(context.Background(), dst)
			fmt.Println("missed", missed, "then", dst[:n])
		}
	}
	n, missed, _ := r.Read(context.Background(), dst)
	fmt.Println("missed", missed, "then", dst[:n])
	fmt.Printf("%+v, lag %d\n", buf.Stats(), r.Lag())
	// Output:
	// missed 0 then [0 1 2]
	// missed 5 then [8 9 10]
	// {Written:13 Retained:5 Dropped:8 Readers:1}, lag 2
}

func ExampleBuffer_Tail() {
	buf, _ := logbuffer.New[string](logbuffer.Options{})
	buf.Write("a", "b", "c", "d", "e")
	dst := make([]string, 10)
	n, _, _ := buf.Tail(2).TryRead(dst)
	fmt.Println(dst[:n])
	// Output: [d e]
}

// A dashboard that has lost its connection goes on where it stopped.
func ExampleBuffer_FromSeq() {
	buf, _ := logbuffer.New[string](logbuffer.Options{})
	buf.Write("a", "b", "c")
	r := buf.FromOldest()
	dst := make([]string, 2)
	r.TryRead(dst)
	seq := r.Seq() // goes to the client, and comes back with its next request
	r.Close()

	buf.Write("d")
	r, err := buf.FromSeq(seq)
	if err != nil {
		r = buf.FromOldest() // seq belongs to another buffer
	}
	n, missed, _ := r.TryRead(dst)
	fmt.Println(dst[:n], missed)

	_, err = buf.FromSeq(99)
	fmt.Println(err)
	// Output:
	// [c d] 0
	// logbuffer: read from 99: sequence number not yet written, the next one is 4
}

func ExampleReader_Where() {
	buf, _ := logbuffer.New[int](logbuffer.Options{})
	buf.Write(1, 2, 3, 4, 5, 6)
	buf.Close()
	for e := range buf.Tail(4).Where(func(e int) bool { return e%2 == 0 }).All(context.Background()) {
		fmt.Println(e)
	}
	// Output:
	// 4
	// 6
}

// Two weavelets, one stream, ordered by time.
func ExampleMerge() {
	one, _ := logbuffer.New[Entry](logbuffer.Options{})
	two, _ := logbuffer.New[Entry](logbuffer.Options{})
	one.Write(Entry{10, "one starts"}, Entry{40, "one stops"})
	two.Write(Entry{20, "two starts"}, Entry{30, "two stops"})
	one.Close()
	two.Close()

	m, err := logbuffer.NewMerge(func(e Entry) int64 { return e.Time }, logbuffer.MergeOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	m.Add("one", one.FromOldest())
	m.Add("two", two.FromOldest())
	m.Seal() // no more are coming
	for item := range m.All(context.Background()) {
		fmt.Println(item.Entry.Time, item.Source, item.Entry.Text)
	}
	// Output:
	// 10 one one starts
	// 20 two two starts
	// 30 two two stops
	// 40 one one stops
}

// The output of a program, line by line.
func ExampleLines() {
	l, err := logbuffer.NewLines(logbuffer.LineOptions{MaxLine: 20})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(l, "starting\nlist")
	fmt.Fprint(l, "ening on :80\nsomething that is said at length\n")
	l.Close()
	for line := range l.FromOldest().All(context.Background()) {
		end := "\n"
		if line.Partial {
			end = " ...\n"
		}
		os.Stdout.Write(line.Text)
		io.WriteString(os.Stdout, end)
	}
	// Output:
	// starting
	// listening on :80
	// something that is sa ...
	// id at length
}
