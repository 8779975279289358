//go:build !darwin && !linux

package main

import "os"

// immediate does nothing: keys are read after return.
func immediate(*os.File) (restore func()) { return func() {} }

// foreground reports whether this process may read the terminal.
func foreground(*os.File) bool { return true }

// terminalSize returns a usual size.
func terminalSize(*os.File) (rows, columns int) { return 24, 80 }
