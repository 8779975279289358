//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"
)

// A backend is what a subject sends requests to.
type backend struct {
	address string
	weight  int // 0: gets no new requests
}

func formatBackends(backends []backend) string {
	var words []string
	for _, b := range backends {
		words = append(words, fmt.Sprintf("%s=%d", b.address, b.weight))
	}
	return strings.Join(words, " ")
}

func parseBackends(words []string) ([]backend, error) {
	var backends []backend
	for _, word := range words {
		address, weight, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(weight)
		if err != nil {
			return nil, fmt.Errorf("backend %q: %w", word, err)
		}
		backends = append(backends, backend{address, n})
	}
	return backends, nil
}

// runFront serves with a subject written in Go, and does as it is told on the
// standard input: the backends are arguments, so that no request comes before
// them.
func runFront(role string, args []string) error {
	raiseFiles()
	var f front
	var err error
	switch role {
	case "proxy":
		f, err = newProxy()
	default:
		f = newReverseProxy()
	}
	if err != nil {
		return err
	}
	backends, err := parseBackends(args)
	if err != nil {
		return err
	}
	if err := f.set(backends); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- f.serve(l) }()
	fmt.Printf("ready %s\n", l.Addr())
	commands := make(chan []string)
	go func() {
		defer close(commands)
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			commands <- strings.Fields(lines.Text())
		}
	}()
	for {
		select {
		case err := <-failed:
			return err
		case words, ok := <-commands:
			if !ok {
				return nil
			}
			if err := obey(f, words); err != nil {
				return err
			}
			fmt.Println("ok")
		}
	}
}

func obey(f front, words []string) error {
	if len(words) == 0 {
		return errors.New("empty command")
	}
	switch args := words[1:]; words[0] {
	case "set":
		backends, err := parseBackends(args)
		if err != nil {
			return err
		}
		return f.set(backends)
	case "drained":
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return f.drained(ctx, args[0])
	case "profile":
		file, err := os.Create(args[0])
		if err != nil {
			return err
		}
		return pprof.StartCPUProfile(file)
	case "profiled":
		pprof.StopCPUProfile()
		return nil
	}
	return fmt.Errorf("command %q", words)
}
