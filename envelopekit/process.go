package envelopekit

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	weaverruntime "github.com/ServiceWeaver/weaver/runtime"
	"github.com/ServiceWeaver/weaver/runtime/envelope"
	"github.com/ServiceWeaver/weaver/runtime/protomsg"
	"github.com/ServiceWeaver/weaver/runtime/protos"
	"github.com/ServiceWeaver/weaver/runtime/version"
	"google.golang.org/protobuf/proto"

	"github.com/weaverkit/weaverkit/envelopekit/internal/wire"
)

const (
	// deployerControl is the component through which a weavelet calls its
	// deployer; the constant is internal upstream.
	deployerControl = "github.com/ServiceWeaver/weaver/deployerControl"

	// weaveletControl is that through which a deployer calls a weavelet.
	weaveletControl = "github.com/ServiceWeaver/weaver/weaveletControl"

	// deployerSocket is the name of the socket on which the deployer answers a
	// weavelet, in the weavelet's directory.
	deployerSocket = "d"

	// weaveletSocket is that on which the weavelet answers the deployer.
	weaveletSocket = "w"

	// maxSocketPath is what fits into sockaddr_un on every platform (104 bytes
	// on darwin, 108 on Linux, a NUL included). A longer path would hang.
	maxSocketPath = 103

	// maxOutstanding bounds the calls to one weavelet that wait for an answer.
	maxOutstanding = 32

	// killWait is how long a process may take to die of SIGKILL.
	killWait = 5 * time.Second

	// outputWait is how long output may keep coming after the exit, from
	// children that inherited it.
	outputWait = 500 * time.Millisecond
)

// ProcessLauncher starts weavelets as processes of this machine, each in a
// process group of its own, so that ctrl-C in a terminal reaches only the
// deployer. The zero value is ready for use. A ProcessLauncher must not be
// copied after its first use.
//
// On Linux the weavelets end with this process, even if it is killed: nobody
// could serve them any more, and a weavelet that is not served wedges. When a
// weavelet ends there, what is left of its process group is killed.
type ProcessLauncher struct {
	// Dir is where each weavelet gets a directory for its sockets, removed
	// when it ends, or by the next launcher with this Dir if this process is
	// killed. It must be short: a socket's path is limited to about 100
	// bytes. Empty means os.TempDir() or, if that is too long, /tmp.
	Dir string

	// MaxLine is the longest line of output that becomes one log entry. Longer
	// ones are cut, and every piece but the last is marked with the attribute
	// [PartialAttr]. Zero means 64 KiB.
	MaxLine int

	swept sync.Once
}

// Launch implements [Launcher].
func (l *ProcessLauncher) Launch(ctx context.Context, spec Spec, h envelope.EnvelopeHandler) (Weavelet, error) {
	w, err := l.launch(ctx, spec, h)
	if err != nil {
		return nil, fmt.Errorf("start replica %d of group %s: %w", spec.Replica, spec.Group, err)
	}
	return w, nil
}

func (l *ProcessLauncher) launch(ctx context.Context, spec Spec, h envelope.EnvelopeHandler) (Weavelet, error) {
	base := cmp.Or(l.Dir, tempDir())
	l.swept.Do(func() { sweep(base) })
	dir, err := os.MkdirTemp(base, fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("make a directory for sockets: %w", err)
	}
	if longest := filepath.Join(dir, weaveletSocket); len(longest) > maxSocketPath {
		os.Remove(dir)
		return nil, fmt.Errorf("the path of a socket in %s would be longer than the %d bytes that fit: use a shorter ProcessLauncher.Dir", dir, maxSocketPath)
	}
	server, err := wire.NewServer(deployerControl, h)
	if err != nil {
		os.Remove(dir)
		return nil, err
	}

	life, end := context.WithCancel(context.Background())
	p := &process{
		spec:      spec,
		dir:       dir,
		end:       end,
		connected: make(chan error, 1),
		exited:    make(chan struct{}),
		done:      make(chan struct{}),
		calls:     make(chan struct{}, maxOutstanding),
	}

	// The deployer's socket listens before the process starts, so that the
	// weavelet's first attempt to connect succeeds; a failed one would cost it
	// a wait of 10 ms and more.
	socket, err := net.Listen("unix", filepath.Join(dir, deployerSocket))
	if err != nil {
		end()
		os.RemoveAll(dir)
		return nil, err
	}
	args := protomsg.Clone(spec.Args)
	args.ControlSocket = filepath.Join(dir, weaveletSocket)
	args.Redirects = []*protos.WeaveletArgs_Redirect{{
		Component: deployerControl,
		Target:    deployerControl,
		Address:   "unix://" + socket.Addr().String(),
	}}
	p.socket = &countingListener{Listener: socket, idle: make(chan struct{}, 1)}
	p.wg.Go(func() {
		_ = server.Serve(life, p.socket) // the error tells only that life has ended
	})
	p.wg.Go(func() { p.talk(life, args.ControlSocket) })
	if err := p.start(args, l.MaxLine, h); err != nil {
		end()
		p.wg.Wait()
		os.RemoveAll(dir)
		return nil, err
	}
	// From here on the process's end cleans up, and closes done.

	if err := p.initialize(ctx); err != nil {
		return nil, errors.Join(err, p.kill())
	}
	return p, nil
}

// tempDir returns a directory for temporary files whose name is short enough.
func tempDir() string {
	dir := os.TempDir()
	if longest := len(dir) + len("/wk1234567-1234567890/"+weaveletSocket); longest > maxSocketPath && runtime.GOOS != "windows" {
		return "/tmp"
	}
	return dir
}

// A process is a weavelet that runs as a process of this machine.
type process struct {
	spec    Spec
	dir     string
	end     context.CancelFunc // ends the connections
	wg      sync.WaitGroup     // both connections, the output pumps
	socket  *countingListener
	cmd     *exec.Cmd
	tail    tail
	control control // valid once connected says so
	address string
	calls   chan struct{} // a slot for each call that waits for an answer

	connected chan error // gets one value

	signals sync.Mutex // guards the following, and is held while a signal is sent
	reaped  bool       // the process id may be another's

	exited chan struct{} // closed when the process has exited
	done   chan struct{} // closed when all is cleaned up
	err    error         // how it ended; valid after exited is closed
}

// control are the calls that a weavelet answers. Upstream's type for them is
// internal; its methods are not.
type control interface {
	InitWeavelet(context.Context, *protos.InitWeaveletRequest) (*protos.InitWeaveletReply, error)
	UpdateComponents(context.Context, *protos.UpdateComponentsRequest) (*protos.UpdateComponentsReply, error)
	UpdateRoutingInfo(context.Context, *protos.UpdateRoutingInfoRequest) (*protos.UpdateRoutingInfoReply, error)
	GetHealth(context.Context, *protos.GetHealthRequest) (*protos.GetHealthReply, error)
	GetLoad(context.Context, *protos.GetLoadRequest) (*protos.GetLoadReply, error)
	GetMetrics(context.Context, *protos.GetMetricsRequest) (*protos.GetMetricsReply, error)
	GetProfile(context.Context, *protos.GetProfileRequest) (*protos.GetProfileReply, error)
}

// start starts the process and the goroutines that read its output and wait
// for its end.
func (p *process) start(args *protos.WeaveletArgs, maxLine int, h envelope.EnvelopeHandler) error {
	encoded, err := proto.Marshal(args)
	if err != nil {
		return fmt.Errorf("encode the weavelet's arguments: %w", err)
	}
	stdout, outw, err := os.Pipe()
	if err != nil {
		return err
	}
	stderr, errw, err := os.Pipe()
	if err != nil {
		stdout.Close()
		outw.Close()
		return err
	}
	p.cmd = exec.Command(p.spec.Config.Binary, p.spec.Config.Args...)
	p.cmd.Stdout, p.cmd.Stderr = outw, errw
	p.cmd.Env = append(os.Environ(), weaverruntime.WeaveletArgsKey+"="+base64.StdEncoding.EncodeToString(encoded))
	p.cmd.Env = append(p.cmd.Env, p.spec.Config.Env...)
	p.cmd.SysProcAttr = sysProcAttr()

	// On Linux a process dies with the thread that started it (that is how it
	// dies with the deployer), so that thread stays with it.
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		outw.Close()
		errw.Close()
		if err == nil { // before wait waits for them
			pump := outputPump{args: args, max: maxLine, tail: &p.tail, h: h}
			p.wg.Go(func() { pump.run("stdout", stdout) })
			p.wg.Go(func() { pump.run("stderr", stderr) })
		}
		started <- err
		if err == nil {
			p.wait(stdout, stderr)
		}
	}()
	if err := <-started; err != nil {
		stdout.Close()
		stderr.Close()
		return err
	}
	return nil
}

// wait waits for the process's end and cleans up after it. It runs on the
// thread that started the process.
func (p *process) wait(stdout, stderr io.Closer) {
	p.err = exitError(p.cmd, p.reap())
	close(p.exited)
	// What the weavelet said last is still in the pipes and the socket; both
	// end by themselves, unless somebody else holds them open.
	cut := time.AfterFunc(outputWait, func() {
		stdout.Close()
		stderr.Close()
		p.end()
	})
	p.socket.awaitIdle(outputWait)
	p.end()
	p.wg.Wait()
	cut.Stop()
	stdout.Close()
	stderr.Close()
	os.RemoveAll(p.dir)
	close(p.done)
}

// talk connects to the weavelet's socket, as soon as it is there, and reads the
// answers that come from there until the connection ends.
func (p *process) talk(life context.Context, path string) {
	conn, err := p.dial(life, path)
	if err != nil {
		p.connected <- err
		return
	}
	client := wire.NewClient(conn)
	defer context.AfterFunc(life, func() { conn.Close() })()
	stub, err := client.Component(weaveletControl)
	if err != nil {
		conn.Close()
		p.connected <- err
		return
	}
	p.control = stub.(control)
	p.connected <- nil
	_ = client.Run() // it ends in one way or another

	// A weavelet that hangs up can be of no more use.
	select {
	case <-p.exited:
	case <-life.Done():
	case <-time.After(outputWait):
		p.signal(killGroup)
	}
}

// dial connects to the weavelet's socket.
func (p *process) dial(life context.Context, path string) (net.Conn, error) {
	const most = 10 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	for wait := 500 * time.Microsecond; ; wait = min(wait*5/4, most) {
		select {
		case <-timer.C:
		case <-p.exited:
			return nil, ErrEnded
		case <-life.Done():
			return nil, ErrEnded
		}
		conn, err := net.Dial("unix", path)
		switch {
		case err == nil:
			return conn, nil
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED): // not there, not yet listening
			return nil, err
		}
		timer.Reset(wait)
	}
}

// initialize waits for the connection and initializes the weavelet.
func (p *process) initialize(ctx context.Context) error {
	select {
	case err := <-p.connected:
		if err != nil {
			return p.startError(ctx, err)
		}
	case <-ctx.Done():
		return p.startError(ctx, ctx.Err())
	}
	reply, err := call(ctx, p, p.control.InitWeavelet, &protos.InitWeaveletRequest{Sections: p.spec.Config.Sections})
	if err != nil {
		return p.startError(ctx, err)
	}
	got := version.SemVer{Major: int(reply.GetVersion().GetMajor()), Minor: int(reply.GetVersion().GetMinor()), Patch: int(reply.GetVersion().GetPatch())}
	switch {
	case got != version.DeployerVersion:
		return fmt.Errorf("process %d speaks deployer API %s, this deployer %s", p.cmd.Process.Pid, got, version.DeployerVersion)
	case reply.GetDialAddr() == "":
		return fmt.Errorf("process %d does not say at which address it is reached", p.cmd.Process.Pid)
	}
	p.address = reply.DialAddr
	return nil
}

// startError returns the reason why the weavelet did not come up.
func (p *process) startError(ctx context.Context, err error) error {
	select {
	case <-p.exited:
		if err := p.Err(); err != nil {
			return err
		}
		// To the caller it is as good as a failure.
		return &ExitError{Pid: p.cmd.Process.Pid, Output: p.tail.lines()}
	default:
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("process %d did not initialize: %w", p.cmd.Process.Pid, err)
}

// kill ends the process by force and waits until it is gone.
func (p *process) kill() error {
	p.signal(killGroup)
	select {
	case <-p.done:
		return nil
	case <-time.After(killWait):
		return fmt.Errorf("process %d survives SIGKILL for %v", p.cmd.Process.Pid, killWait)
	}
}

// signal sends a signal, unless the process has ended.
func (p *process) signal(send func(*exec.Cmd)) {
	p.signals.Lock()
	defer p.signals.Unlock()
	if !p.reaped {
		send(p.cmd)
	}
}

// Stop implements [Weavelet].
func (p *process) Stop(ctx context.Context) error {
	if ctx.Err() == nil {
		p.signal(terminate)
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
		}
	}
	return p.kill()
}

// Address implements [Weavelet].
func (p *process) Address() string { return p.address }

// Pid implements [Weavelet].
func (p *process) Pid() (int, bool) { return p.cmd.Process.Pid, true }

// Done implements [Weavelet].
func (p *process) Done() <-chan struct{} { return p.exited }

// Err implements [Weavelet].
func (p *process) Err() error {
	select {
	case <-p.exited:
	default:
		return nil
	}
	select {
	case <-p.done: // the error has the last output
	case <-time.After(2 * outputWait):
	}
	if exit, ok := errors.AsType[*ExitError](p.err); ok {
		detailed := *exit
		detailed.Output = p.tail.lines()
		return &detailed
	}
	return p.err
}

// UpdateComponents implements [Weavelet].
func (p *process) UpdateComponents(ctx context.Context, components []string) error {
	_, err := call(ctx, p, p.control.UpdateComponents, &protos.UpdateComponentsRequest{Components: components})
	return err
}

// UpdateRouting implements [Weavelet].
func (p *process) UpdateRouting(ctx context.Context, routing *protos.RoutingInfo) error {
	_, err := call(ctx, p, p.control.UpdateRoutingInfo, &protos.UpdateRoutingInfoRequest{RoutingInfo: routing})
	return err
}

// Health implements [Weavelet].
func (p *process) Health(ctx context.Context) (*protos.GetHealthReply, error) {
	return call(ctx, p, p.control.GetHealth, &protos.GetHealthRequest{})
}

// Load implements [Weavelet].
func (p *process) Load(ctx context.Context) (*protos.LoadReport, error) {
	reply, err := call(ctx, p, p.control.GetLoad, &protos.GetLoadRequest{})
	return reply.GetLoad(), err
}

// Metrics implements [Weavelet].
func (p *process) Metrics(ctx context.Context) (*protos.MetricUpdate, error) {
	reply, err := call(ctx, p, p.control.GetMetrics, &protos.GetMetricsRequest{})
	return reply.GetUpdate(), err
}

// Profile implements [Weavelet].
func (p *process) Profile(ctx context.Context, req *protos.GetProfileRequest) ([]byte, error) {
	reply, err := call(ctx, p, p.control.GetProfile, req)
	return reply.GetData(), err
}

// call makes a call that returns when ctx or the weavelet ends. The client
// below obeys its context while it waits for an answer, but not while it
// writes into the full socket of a stopped weavelet, so the call gets a
// goroutine that can be left behind; it ends with the process at the latest.
func call[Req, Reply any](ctx context.Context, p *process, f func(context.Context, Req) (Reply, error), req Req) (Reply, error) {
	type result struct {
		reply Reply
		err   error
	}
	var none Reply
	if err := ctx.Err(); err != nil {
		return none, err
	}
	select {
	case <-p.exited:
		return none, ErrEnded
	case p.calls <- struct{}{}:
	default:
		return none, fmt.Errorf("%w: %d calls to it are waiting", ErrUnanswered, maxOutstanding)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := make(chan result, 1)
	go func() {
		defer func() { <-p.calls }()
		reply, err := f(ctx, req)
		c <- result{reply, err}
	}()
	select {
	case r := <-c:
		if !errors.Is(r.err, wire.ErrClosed) {
			return r.reply, r.err
		}
		// Its end follows, at the hands of talk if need be.
	case <-p.exited:
	case <-ctx.Done():
	}
	select {
	case <-p.exited:
		return none, ErrEnded
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// A countingListener knows whether connections that it accepted are open.
type countingListener struct {
	net.Listener
	idle chan struct{} // gets a value when the last open connection closes

	mu   sync.Mutex // guards the following
	open int
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.add(1)
	return &countedConn{Conn: c, release: sync.OnceFunc(func() { l.add(-1) })}, nil
}

func (l *countingListener) add(n int) {
	l.mu.Lock()
	l.open += n
	idle := l.open == 0
	l.mu.Unlock()
	if idle {
		select {
		case l.idle <- struct{}{}:
		default:
		}
	}
}

// awaitIdle waits until no connection is open, for at most the given time.
func (l *countingListener) awaitIdle(most time.Duration) {
	deadline := time.After(most)
	for {
		l.mu.Lock()
		open := l.open
		l.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-l.idle:
		case <-deadline:
			return
		}
	}
}

type countedConn struct {
	net.Conn
	release func()
}

func (c *countedConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}
