//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// runIdle opens connections, a few at a time, makes a request on each, says
// so, and holds them until its standard input is closed.
func runIdle(args []string) error {
	raiseFiles()
	if len(args) != 2 {
		return errors.New("want address, connections")
	}
	conns, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	const together = 64
	for open := 0; open < conns; open += together {
		n := min(together, conns-open)
		l, err := newClosedLoop(args[0], "/small", n)
		if err != nil {
			return err
		}
		if _, err := l.run(n); err != nil {
			return err
		}
		unix.Close(l.poll.fd) // the connections stay
	}
	fmt.Println("open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// readEvents reads streams of events and returns how many milliseconds late
// each event was.
func readEvents(address string, streams int, length time.Duration) (sample, error) {
	var mu sync.Mutex // guards the following two
	var delays sample
	var failed error
	var wg sync.WaitGroup
	for range streams {
		wg.Go(func() {
			d, err := readStream(address, length)
			mu.Lock()
			defer mu.Unlock()
			delays = append(delays, d...)
			failed = errors.Join(failed, err)
		})
		time.Sleep(eventPause / time.Duration(streams))
	}
	wg.Wait()
	if failed != nil {
		return nil, failed
	}
	if want := streams * int(length/eventPause) * 3 / 4; len(delays) < want {
		return nil, fmt.Errorf("only %d events of more than %d", len(delays), want)
	}
	return delays, nil
}

func readStream(address string, length time.Duration) (sample, error) {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(length))
	if _, err := io.WriteString(c, "GET /events HTTP/1.1\r\nHost: bench.test\r\nAccept: text/event-stream\r\n\r\n"); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	var delays sample
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		sent, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, err
		}
		delays = append(delays, float64(monotonic()-sent)/1e6)
	}
	var timeout net.Error
	if err := lines.Err(); errors.As(err, &timeout) && timeout.Timeout() {
		return delays, nil
	} else if err != nil {
		return nil, err
	}
	return nil, errors.New("the stream ended")
}
