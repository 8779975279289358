package health

import (
	"bytes"
	"os"
	"strconv"
)

// processState returns the state of a process as proc_pid_stat(5) has it, or 0
// if it cannot be told.
func processState(pid int) byte {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The name before it is in parentheses, and may contain some.
	if i := bytes.LastIndexByte(stat, ')'); i >= 0 && i+2 < len(stat) {
		return stat[i+2]
	}
	return 0
}
