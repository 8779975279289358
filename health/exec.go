package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"
)

// Exec returns a check that runs a program: exit status 0 means ready. When the
// check must end the program is killed; what it has started itself is not, but
// is not waited for either. The end of its output becomes part of the error.
func Exec(name string, args ...string) CheckFunc {
	return func(ctx context.Context) (Result, error) {
		cmd := exec.CommandContext(ctx, name, args...)
		var out tail
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.WaitDelay = 10 * time.Millisecond
		err := cmd.Run()
		if err == nil || errors.Is(err, exec.ErrWaitDelay) {
			return Result{}, nil
		}
		if text := bytes.TrimSpace(out.b); len(text) > 0 {
			return Result{}, fmt.Errorf("%s: %w: %s", name, err, text)
		}
		return Result{}, fmt.Errorf("%s: %w", name, err)
	}
}

// A tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const limit = 200
	t.b = append(t.b, p[max(0, len(p)-limit):]...)
	t.b = t.b[max(0, len(t.b)-limit):]
	return len(p), nil
}
