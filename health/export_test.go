package health

import "time"

// Launched has f told how late each check is started. It must be called before
// Run; f must not take long.
func (p *Prober) Launched(f func(late time.Duration)) { p.core.launched = f }
