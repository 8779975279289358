//go:build !linux

package envelopekit

// reap waits for the process's end. Without waitid's WNOWAIT what is left of
// its group cannot be killed: the group's id may be another's already.
func (p *process) reap() error {
	err := p.cmd.Wait()
	p.signals.Lock()
	defer p.signals.Unlock()
	p.reaped = true
	return err
}
