//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A subject is a proxy under measurement, in processes of its own.
type subject struct {
	*process
	address string

	// set sets all backends, and returns when that is in force as far as the
	// subject can tell.
	set func([]backend) error
	// drained returns when no request is under way to a backend that set has
	// left out or given the weight 0. Nil if the subject cannot tell.
	drained func(address string) error
}

// An aim is what a subject is configured for.
type aim int

const (
	speed    aim = iota // the least work a request
	failures            // the fewest failed requests
	bigReply            // large replies, whatever memory that takes
)

// startSubject starts a subject in front of the backends. The Go subjects and
// nginx but for its buffers are the same whatever the aim.
func startSubject(kind string, backends []backend, a aim) (*subject, error) {
	switch kind {
	case "proxy", "reverseproxy":
		return startFront(kind, backends)
	case "nginx", "haproxy":
	default:
		return nil, fmt.Errorf("no subject %q: want proxy, reverseproxy, nginx, haproxy", kind)
	}
	// They cannot say which port the kernel has chosen, so one is chosen for
	// them, which somebody may take in between.
	var err error
	for range 3 {
		var s *subject
		if kind == "nginx" {
			s, err = startNginx(backends, a)
		} else {
			s, err = startHaproxy(backends, a)
		}
		if err == nil {
			return s, nil
		}
	}
	return nil, err
}

func startFront(kind string, backends []backend) (*subject, error) {
	p, err := startSelf(kind, strings.Fields(formatBackends(backends))...)
	if err != nil {
		return nil, err
	}
	s := &subject{process: p}
	if s.address, err = p.expect("ready", patience); err != nil {
		p.end()
		return nil, err
	}
	s.set = func(b []backend) error {
		_, err := p.tell("set", formatBackends(b))
		return err
	}
	s.drained = func(address string) error {
		_, err := p.tell("drained", address)
		return err
	}
	return s, nil
}

// listens waits until somebody listens at the address.
func listens(p *process, address string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended", p.name)
		default:
		}
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			return c.Close()
		}
	}
	return fmt.Errorf("%s does not listen", p.name)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func nginxConfig(dir, address string, backends []backend, a aim) string {
	var servers strings.Builder
	for _, b := range backends {
		if b.weight > 0 {
			fmt.Fprintf(&servers, "    server %s weight=%d max_fails=1 fail_timeout=10s;\n", b.address, b.weight)
		} else {
			fmt.Fprintf(&servers, "    server %s down;\n", b.address)
		}
	}
	if len(backends) == 0 {
		servers.WriteString("    server 127.0.0.1:1 down;\n")
	}
	buffers := ""
	if a == bigReply {
		buffers = "proxy_buffers 8 128k; proxy_busy_buffers_size 256k;"
	}
	return fmt.Sprintf(`daemon off;
worker_processes 2;
pid %[1]s/nginx.pid;
error_log stderr crit;
events { worker_connections 16000; }
http {
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  upstream backends {
    zone backends 256k;
    least_conn;
%[3]s    keepalive 256;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
  }
  server {
    listen %[2]s backlog=4096;
    tcp_nodelay on;
    location / {
      proxy_pass http://backends;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_max_temp_file_size 0;
      %[4]s
      proxy_connect_timeout 1s;
    }
    location /events {
      proxy_pass http://backends;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }
  }
}
`, dir, address, servers.String(), buffers)
}

func startNginx(backends []backend, a aim) (*subject, error) {
	dir, err := os.MkdirTemp(workDir, "nginx")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &subject{address: fmt.Sprintf("127.0.0.1:%d", port)}
	config := filepath.Join(dir, "nginx.conf")
	write := func(b []backend) error {
		// nginx may be reading the last one.
		next := config + ".next"
		if err := os.WriteFile(next, []byte(nginxConfig(dir, s.address, b, a)), 0o600); err != nil {
			return err
		}
		return os.Rename(next, config)
	}
	if err := write(backends); err != nil {
		return nil, err
	}
	// The master ends its workers when it gets SIGTERM.
	if s.process, err = start("nginx", syscall.SIGTERM, "nginx", "-c", config, "-p", dir, "-e", "stderr"); err != nil {
		return nil, err
	}
	if err := listens(s.process, s.address); err != nil {
		s.end()
		return nil, err
	}
	s.set = func(b []backend) error {
		if err := write(b); err != nil {
			return err
		}
		return s.cmd.Process.Signal(syscall.SIGHUP)
	}
	return s, nil
}

func haproxyConfig(socket, address string, backends []backend, a aim) string {
	// What may be sent again has to be kept until the answer comes, which costs
	// about a tenth; random takes no lock where leastconn does.
	// Without http-no-delay the kernel holds events back.
	check, retry, balance := "", "", "random(2)"
	if a == failures {
		balance = "leastconn"
		check = "check inter 500ms fall 2 rise 1 observe layer4 error-limit 2 on-error mark-down"
		retry = "  option http-no-delay\n  retry-on conn-failure empty-response\n  http-request disable-l7-retry if !{ method GET HEAD PUT DELETE }"
	}
	var servers strings.Builder
	for i := range haproxySlots {
		address, state := "127.0.0.1:1", "disabled"
		if i < len(backends) {
			address, state = backends[i].address, ""
		}
		fmt.Fprintf(&servers, "  server s%d %s weight %d %s pool-max-conn 256 %s\n",
			i, address, haproxyWeight, check, state)
	}
	return fmt.Sprintf(`global
  nbthread 2
  no strict-limits
  maxconn 12000
  stats socket %s mode 600 level admin
defaults
  mode http
  timeout connect 1s
  timeout client 600s
  timeout server 30s
  timeout queue 3s
  timeout http-keep-alive 600s
  option redispatch 1
  retries 3
  option splice-auto
frontend in
  bind %s backlog 4096
  option forwardfor
  default_backend out
backend out
  balance %s
  http-reuse always
%s
%s`, socket, address, balance, retry, servers.String())
}

const (
	haproxySlots  = 8 // servers of the configuration, used or not
	haproxyWeight = 10
)

func startHaproxy(backends []backend, a aim) (*subject, error) {
	dir, err := os.MkdirTemp(workDir, "haproxy")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &subject{address: fmt.Sprintf("127.0.0.1:%d", port)}
	config, socket := filepath.Join(dir, "haproxy.cfg"), filepath.Join(dir, "admin")
	if err := os.WriteFile(config, []byte(haproxyConfig(socket, s.address, backends, a)), 0o600); err != nil {
		return nil, err
	}
	if s.process, err = start("haproxy", syscall.SIGKILL, "haproxy", "-db", "-q", "-f", config); err != nil {
		return nil, err
	}
	if err := listens(s.process, s.address); err != nil {
		s.end()
		return nil, err
	}
	slots := make([]backend, haproxySlots)
	copy(slots, backends)
	s.set = func(b []backend) error { return haproxySet(socket, slots, b) }
	return s, nil
}

// haproxySet gives the servers of the configuration the addresses, weights and
// states that are wanted, through the runtime interface.
func haproxySet(socket string, slots, want []backend) error {
	var commands []string
	left := map[string]int{}
	for _, b := range want {
		left[b.address] = b.weight
	}
	for i := range slots {
		weight, ok := left[slots[i].address]
		switch {
		case slots[i].address == "":
			continue
		case !ok:
			commands = append(commands, fmt.Sprintf("set server out/s%d state maint", i))
			slots[i] = backend{}
			continue
		case weight == 0:
			commands = append(commands, fmt.Sprintf("set server out/s%d state drain", i))
		default:
			commands = append(commands, fmt.Sprintf("set server out/s%d state ready", i),
				fmt.Sprintf("set server out/s%d weight %d", i, weight*haproxyWeight))
		}
		slots[i].weight = weight
		delete(left, slots[i].address)
	}
	for _, b := range want {
		weight, ok := left[b.address]
		if !ok {
			continue
		}
		i := 0
		for i < len(slots) && slots[i].address != "" {
			i++
		}
		if i == len(slots) {
			return errors.New("more backends than haproxy has servers")
		}
		slots[i] = b
		host, port, err := net.SplitHostPort(b.address)
		if err != nil {
			return err
		}
		commands = append(commands,
			fmt.Sprintf("set server out/s%d addr %s port %s", i, host, port),
			fmt.Sprintf("set server out/s%d weight %d", i, weight*haproxyWeight),
			fmt.Sprintf("set server out/s%d state ready", i))
		delete(left, b.address)
	}
	if len(commands) == 0 {
		return nil
	}
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(c, strings.Join(commands, ";")); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		if _, err := c.Read(buf); err != nil {
			return nil // it answers and closes
		}
	}
}
