package rollout

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
)

// guarded calls f, whose author is somebody else, and turns a panic into an error
// that says where it was.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panicked: %v%s", p, panicked())
		}
	}()
	return f()
}

// panicked returns the first lines of the stack of the panic that is recovered, in
// one line, from where it was up to guarded.
func panicked() string {
	const most = 5
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)]) // from the runtime's on
	var b strings.Builder
	for n := 0; n < most; {
		f, more := frames.Next()
		name := f.Function[strings.LastIndex(f.Function, "/")+1:]
		switch {
		case name == "rollout.guarded":
			return b.String()
		case !strings.HasPrefix(name, "runtime."):
			by := ", called by"
			if n == 0 {
				by = ", in"
			}
			fmt.Fprintf(&b, "%s %s (%s:%d)", by, name, filepath.Base(f.File), f.Line)
			n++
		}
		if !more {
			break
		}
	}
	return b.String()
}
