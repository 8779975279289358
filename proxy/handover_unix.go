//go:build unix

package proxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// SendListener gives a listener to the process at the other end of a Unix
// socket, which takes it with [ReceiveListener]. Both have it then; each
// connection goes to one of them. So an upgrade in place is: start the new
// process, give it the listener, wait until it serves, end the context of Serve
// here. No connection is refused, not even one that waits in the backlog.
func SendListener(to *net.UnixConn, l net.Listener) error {
	f, ok := l.(syscall.Conn)
	if !ok {
		return fmt.Errorf("send listener %s: a %T cannot be given away", l.Addr(), l)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("send listener %s: %w", l.Addr(), err)
	}
	var sent error
	if err := raw.Control(func(fd uintptr) {
		_, _, sent = to.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(fd)), nil)
	}); err != nil {
		return fmt.Errorf("send listener %s: %w", l.Addr(), err)
	}
	if sent != nil {
		return fmt.Errorf("send listener %s: %w", l.Addr(), sent)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // the other process serves there
	}
	return nil
}

// ReceiveListener takes a listener that another process gives with
// [SendListener].
func ReceiveListener(from *net.UnixConn) (net.Listener, error) {
	var data [1]byte
	oob := make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := from.ReadMsgUnix(data[:], oob)
	if err != nil {
		return nil, fmt.Errorf("receive listener: %w", err)
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, fmt.Errorf("receive listener: %w", err)
	}
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil || len(fds) != 1 {
			continue
		}
		file := os.NewFile(uintptr(fds[0]), "listener")
		l, err := net.FileListener(file)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("receive listener: %w", err)
		}
		return l, nil
	}
	return nil, errors.New("receive listener: the message has none")
}
