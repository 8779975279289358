//go:build !linux

package health

// processState cannot be told without an external program here.
func processState(int) byte { return 0 }
