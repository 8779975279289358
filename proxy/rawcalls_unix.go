//go:build unix && (!linux || 386 || s390x || race || msan || asan)

// Package syscall tells the race detector which memory the kernel writes and reads.

package proxy

import "syscall"

func sysRead(fd uintptr, b []byte) (int, error)  { return syscall.Read(int(fd), b) }
func sysWrite(fd uintptr, b []byte) (int, error) { return syscall.Write(int(fd), b) }
