package proxy

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// A logLimit lets ten messages a second pass, and counts the rest.
type logLimit struct {
	second, passed atomic.Int64
	dropped        atomic.Uint64
}

const logRate = 10

func (l *logLimit) allow(now instant) bool {
	second := int64(now/instant(time.Second)) + 1
	if old := l.second.Load(); old != second && l.second.CompareAndSwap(old, second) {
		l.passed.Store(0)
	}
	if l.passed.Add(1) > logRate {
		l.dropped.Add(1)
		return false
	}
	return true
}

// problem says what went wrong, to whom wants to know.
func (p *Proxy) problem(msg string, args ...any) { p.log(slog.LevelWarn, msg, args...) }

func (p *Proxy) log(level slog.Level, msg string, args ...any) {
	log := p.opts.ErrorLog
	limit := &p.notices
	if level >= slog.LevelWarn {
		limit = &p.warnings // which many notices must not keep from being heard
	}
	if log != nil && log.Enabled(context.Background(), level) && limit.allow(p.now()) {
		log.Log(context.Background(), level, msg, args...)
	}
}
