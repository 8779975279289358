package main

import (
	"time"

	"github.com/weaverkit/weaverkit/rollout"
)

// A status is what there is to show.
type status struct {
	App       string
	Now       time.Time
	Rollout   rollout.Status
	Listeners []listenerStatus
	Load      *loadStatus // nil if there is none
	Stopped   bool        // the rollouts have ended with the deployer
}

type listenerStatus struct {
	Name, Address string
	Rows          []row // newest version first
}

// A row is a version at a listener. The figures are of the last seconds.
type row struct {
	Version  string
	Serving  int // replicas
	Wanted   int
	Weight   int // in 1/10,000; -1 if it has none, not even 0
	Requests uint64
	Share    float64
	Rate     float64 // requests a second
	Success  float64 // share
	P99      time.Duration
}

type loadStatus struct {
	Rate       int
	OK, Failed uint64
}

func (d *deployment) status() status {
	st := status{App: d.name, Now: time.Now(), Rollout: d.runner.Status()}
	traffic, span := d.meter.last()
	listeners, address := d.proxies.addresses()
	for _, name := range listeners {
		l := listenerStatus{Name: name, Address: address[name]}
		var all uint64
		for _, version := range versionsOf(st.Rollout.State) {
			r := row{Version: version, Weight: -1}
			r.Serving, r.Wanted = d.deployer.replicas(version)
			for _, s := range st.Rollout.State.Weights.Splits {
				for _, share := range s.Shares {
					if s.Listener == name && share.Version == version {
						r.Weight = share.Weight
					}
				}
			}
			if t := traffic[place{name, version}]; t.Requests > 0 {
				r.Requests, r.Success, r.P99 = t.Requests, t.SuccessRate(), t.Latency.Quantile(0.99)
				r.Rate = float64(t.Requests) / span.Seconds()
				all += t.Requests
			}
			l.Rows = append(l.Rows, r)
		}
		for i, r := range l.Rows {
			if all > 0 {
				l.Rows[i].Share = float64(r.Requests) / float64(all)
			}
		}
		st.Listeners = append(st.Listeners, l)
	}
	if d.load != nil {
		st.Load = &loadStatus{d.load.rate, d.load.ok.Load(), d.load.failed.Load()}
	}
	return st
}
