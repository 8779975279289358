// Package admin lets other processes of the same user watch and steer a
// running deployment, over a local socket.
//
// The deployer serves one, in a directory that it shares with the tools:
//
//	s := &admin.Server{Deployment: d, Logs: logs}
//	l, err := admin.Listen(dir, d.ID())
//	...
//	err = s.Serve(ctx, l) // until ctx ends; removes the socket
//
// A tool finds it there, without knowing who runs what:
//
//	c, err := admin.Find(ctx, dir, "")      // the only one, or an error that lists them
//	st, err := c.Status(ctx)
//	err = c.Scale(ctx, "main", 3)
//
// Whoever can open the socket can do everything: it is of mode 0600, in a
// directory of mode 0700 that must belong to the user. The protocol is HTTP
// with JSON, so that curl --unix-socket works as well; it is not meant to be
// reached from other machines.
package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/weaverkit/weaverkit/envelopekit"
)

// shutdownTime is how long requests may take to end when Serve does.
const shutdownTime = time.Second

// A Server answers requests about one deployment.
type Server struct {
	Deployment *envelopekit.Deployment

	// Logs writes the last tail lines of the log, and with follow those that
	// come, until ctx ends. Nil means that there is no log to show.
	Logs func(ctx context.Context, w io.Writer, tail int, follow bool) error

	// Stop is called when a client asks the deployment to stop. It must return
	// at once, and typically ends the context of Deployment.Run. Nil refuses.
	Stop func()
}

// Dir returns the usual directory for the sockets of the deployers of the
// given name, which differs from user to user.
func Dir(deployer string) string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return filepath.Join(dir, "weaverkit-"+deployer)
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("weaverkit-%s-%d", deployer, os.Getuid()))
}

// Listen opens the socket of the deployment of the given id in dir, which it
// makes if need be. Sockets that others left behind are removed. Whoever ends
// may remove the directory, if it is empty: Listen makes it again.
func Listen(dir, id string) (net.Listener, error) {
	l, err := listen(dir, id)
	for range 3 {
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		l, err = listen(dir, id) // the directory was removed in between
	}
	return l, err
}

func listen(dir, id string) (net.Listener, error) {
	path := filepath.Join(dir, short(id)+socketSuffix)
	if len(path) > 103 {
		return nil, fmt.Errorf("admin socket: the path %s is longer than the 103 bytes that fit: choose a shorter directory", path)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if err := checkOwned(dir); err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	sweep(dir)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	// The directory keeps others out until the mode is right.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return l, nil
}

const socketSuffix = ".sock"

// short returns the part of a deployment's id that people use, and that its
// socket is named for: the beginning of a UUID, or a hash of other ids.
func short(id string) string {
	if uuid.MatchString(id) {
		return id[:8]
	}
	hash := sha256.Sum256([]byte(id))
	return hex.EncodeToString(hash[:4])
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f-]+$`)

// checkOwned refuses a directory that others could have put things into.
func checkOwned(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || !ownedByUser(info) || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is not a directory that only you can use: remove it, or choose another", dir)
	}
	return nil
}

// sweep removes the sockets of deployers that are gone.
func sweep(dir string) {
	paths, _ := filepath.Glob(filepath.Join(dir, "*"+socketSuffix))
	for _, path := range paths {
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(path)
		}
	}
}

// Serve answers requests until ctx ends. It closes l, which removes the socket.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", s.status)
	mux.HandleFunc("GET /why", s.why)
	mux.HandleFunc("GET /events", s.events)
	mux.HandleFunc("GET /logs", s.logs)
	mux.HandleFunc("POST /scale", s.scale)
	mux.HandleFunc("POST /stop", s.stop)
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
	})
	err := server.Serve(l)
	if stop() {
		return fmt.Errorf("admin socket: %w", err)
	}
	<-closed
	return nil
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	reply(w, s.Deployment.Status())
}

func (s *Server) why(w http.ResponseWriter, r *http.Request) {
	why, err := s.Deployment.Why(r.FormValue("group"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	_, _ = io.WriteString(w, why)
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.FormValue("after"), 10, 64)
	if err != nil && r.FormValue("after") != "" {
		http.Error(w, "after must be the sequence number of an event", http.StatusBadRequest)
		return
	}
	enc := json.NewEncoder(flusher{w})
	for e := range s.Deployment.Events(r.Context(), after) {
		if enc.Encode(e) != nil {
			return
		}
	}
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	if s.Logs == nil {
		http.Error(w, "this deployer keeps no log", http.StatusNotFound)
		return
	}
	tail, err := strconv.Atoi(r.FormValue("tail"))
	if err != nil || tail < 0 {
		http.Error(w, "tail must be a number of lines, 0 or more", http.StatusBadRequest)
		return
	}
	_ = s.Logs(r.Context(), flusher{w}, tail, r.FormValue("follow") == "true") // its error is that the client has left
}

func (s *Server) scale(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.FormValue("replicas"))
	if err != nil {
		http.Error(w, fmt.Sprintf("replicas must be a number, not %q", r.FormValue("replicas")), http.StatusBadRequest)
		return
	}
	if err := s.Deployment.Scale(r.FormValue("group"), n); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func (s *Server) stop(w http.ResponseWriter, _ *http.Request) {
	if s.Stop == nil {
		http.Error(w, "this deployer cannot be stopped from here", http.StatusForbidden)
		return
	}
	s.Stop()
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // its error is that the client has left
}

// A flusher sends each piece at once.
type flusher struct{ http.ResponseWriter }

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	if err == nil {
		err = http.NewResponseController(f.ResponseWriter).Flush()
	}
	return n, err
}
