package envelopekit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Directories with the sockets of weavelets are named for the process that
// they belong to: wk1234-567890.
const dirPrefix = "wk"

// sweep removes the directories that deployers left in dir when they were
// killed. Their weavelets are gone, or cannot be served any more.
func sweep(dir string) {
	paths, _ := filepath.Glob(filepath.Join(dir, dirPrefix+"*-*"))
	for _, path := range paths {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(path), dirPrefix+"%d-", &pid); err != nil || alive(pid) {
			continue
		}
		// The process may still live where pids are other ones, in a container
		// that shares the directory. Then somebody listens.
		c, err := net.DialTimeout("unix", filepath.Join(path, deployerSocket), time.Second)
		switch {
		case err == nil:
			c.Close()
		case errors.Is(err, syscall.ECONNREFUSED):
			os.RemoveAll(path)
		}
	}
}
