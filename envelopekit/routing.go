package envelopekit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ServiceWeaver/weaver/runtime/protomsg"
	"github.com/ServiceWeaver/weaver/runtime/protos"

	"github.com/weaverkit/weaverkit/envelopekit/placement"
)

// A component is what the deployment knows of one. Fields after group are
// guarded by Deployment.mu; messages they point to are never modified.
type component struct {
	name  string
	group *group

	active      bool
	routed      bool
	assignment  *protos.Assignment // the newest, if routed
	assigned    uint64             // the highest version of an assignment
	routing     *protos.RoutingInfo
	version     uint64 // of routing; 0 before the first
	subscribers map[*replica]bool
	changed     chan struct{} // wakes the goroutine that makes assignments; nil if there is none

	members []string // what Options.Members was told; used by that goroutine only
}

// A subscription says how much of a component's routing a weavelet was told.
type subscription struct {
	component *component
	version   uint64
}

// toldForGood is the version of a subscription that never needs an update.
const toldForGood = math.MaxUint64

// A message is something to tell a weavelet.
type message struct {
	what    string
	send    func(context.Context, Weavelet) error
	version uint64
	sub     *subscription // nil for a component set
}

// activate makes the component run somewhere, and r learn where.
func (d *Deployment) activate(r *replica, name string, routed bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, ok := d.components[name]
	switch {
	case r.gone || d.over:
		return ErrEnded
	case !ok:
		// It will ask again and again; once is enough to tell.
		if err := fmt.Errorf("a component uses %s, of which the binary says nothing: run 'weaver generate' and build it again", name); r.problem != err.Error() {
			r.problem = err.Error()
			d.events.add(Event{Kind: Problem, Group: r.slot.g.Name, Replica: r.slot.number, Reason: r.problem})
		}
		return errors.New("the binary says nothing of a component of this name")
	}
	d.activateLocked(c, routed)
	d.subscribeLocked(r, c)
	return nil
}

func (d *Deployment) activateLocked(c *component, routed bool) {
	g := c.group
	if routed && !c.routed {
		c.routed = true
		if !d.over {
			c.changed = make(chan struct{}, 1)
			d.wg.Go(func() { d.assign(c) })
		}
		for _, s := range g.slots {
			if s.replica != nil {
				d.subscribeLocked(s.replica, c)
			}
		}
	}
	if c.active {
		return
	}
	c.active = true
	i, _ := slices.BinarySearch(g.active, c.name)
	g.active = slices.Insert(slices.Clone(g.active), i, c.name)
	g.version++
	d.events.add(Event{Kind: ComponentActivated, Group: g.Name, Component: c.name})
	for _, s := range g.slots {
		if s.replica != nil {
			d.initializeLocked(s.replica, c)
			s.replica.kick()
		}
	}
	d.routeLocked(c)
	d.startLocked(g, fmt.Sprintf("component %s is needed", placement.Shorten(c.name)))
}

// initializeLocked takes a replica back to Starting while one more component
// initializes. It stays in routing.
func (d *Deployment) initializeLocked(r *replica, c *component) {
	s := r.slot
	if s.state != Serving {
		return
	}
	now := time.Now()
	served := now.Sub(r.served)
	d.noteStableLocked(s.g, served, now)
	if served >= d.opts.Restart.Stable {
		s.count = failureCount{}
	}
	r.served = time.Time{}
	d.setStateLocked(s, Starting, fmt.Sprintf("component %s initializes", placement.Shorten(c.name)))
}

// subscribeLocked lets the weavelet be told where the component's replicas are.
func (d *Deployment) subscribeLocked(r *replica, c *component) {
	if !c.subscribers[r] {
		c.subscribers[r] = true
		r.subs = append(r.subs, &subscription{component: c})
		r.kick()
	}
}

// hostLocked puts a new weavelet to use. It is subscribed to the routed
// components that it hosts: it measures their load by the slices of their
// assignments.
func (d *Deployment) hostLocked(r *replica) {
	for _, name := range r.slot.g.Components {
		if c := d.components[name]; c.routed {
			d.subscribeLocked(r, c)
		}
	}
	for name := range r.listeners { // exported before the launcher returned
		d.frontends[name].markLocked()
	}
	r.kick()
}

// joinLocked puts the replica into the routing of its components.
func (d *Deployment) joinLocked(r *replica) {
	if !r.routed && !r.left {
		r.routed = true
		d.rerouteLocked(r.slot.g)
	}
}

// rerouteLocked updates routing after a replica has joined or left.
func (d *Deployment) rerouteLocked(g *group) {
	var addresses []string
	for _, s := range g.slots {
		if s.replica != nil && s.replica.routed {
			addresses = append(addresses, s.replica.address)
		}
	}
	slices.Sort(addresses)
	g.addresses = slices.Compact(addresses)
	g.addressGen++
	for _, name := range g.Components {
		if c := d.components[name]; c.active {
			d.routeLocked(c)
		}
	}
}

// routeLocked makes new routing for the component. For a routed one that needs
// an assignment, which another goroutine makes; but replicas that have left are
// out at once. Callers of their keys wait for the next assignment.
func (d *Deployment) routeLocked(c *component) {
	if c.routed {
		c.reassign()
		if c.routing == nil {
			return
		}
		still := slices.DeleteFunc(slices.Clone(c.routing.Replicas), func(a string) bool {
			return !slices.Contains(c.group.addresses, a)
		})
		if len(still) < len(c.routing.Replicas) {
			d.publishLocked(c, &protos.RoutingInfo{Component: c.name, Replicas: still, Assignment: c.assignment})
		}
		return
	}
	d.publishLocked(c, &protos.RoutingInfo{Component: c.name, Replicas: c.group.addresses})
}

func (d *Deployment) publishLocked(c *component, routing *protos.RoutingInfo) {
	c.routing = routing
	c.version++
	for r := range c.subscribers {
		r.kick()
	}
}

func (c *component) reassign() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// assign makes assignments for a routed component whenever its replicas change.
// It runs in a goroutine of its own, since the Assigner may take its time.
func (d *Deployment) assign(c *component) {
	for {
		select {
		case <-c.changed:
		case <-d.life.Done():
			return
		}
		d.mu.Lock()
		addresses, gen := c.group.addresses, c.group.addressGen
		d.mu.Unlock()
		if d.opts.Members != nil {
			d.tellMembers(c, addresses)
		} else {
			d.askAssigner(c, addresses, gen)
		}
	}
}

// tellMembers tells Options.Members who is there, and callers, too: as soon as
// there is an assignment.
func (d *Deployment) tellMembers(c *component, addresses []string) {
	d.mu.Lock()
	if c.assignment != nil && !slices.Equal(c.routing.Replicas, addresses) {
		d.publishLocked(c, &protos.RoutingInfo{Component: c.name, Replicas: addresses, Assignment: c.assignment})
	}
	d.mu.Unlock()
	if !slices.Equal(c.members, addresses) {
		c.members = addresses
		d.opts.Members(c.name, slices.Clone(addresses))
	}
}

// askAssigner publishes the Assigner's next assignment, or an equal split if it
// has no fit one.
func (d *Deployment) askAssigner(c *component, addresses []string, gen uint64) {
	if len(addresses) == 0 {
		return // callers wait; the weavelets keep the last assignment
	}
	d.mu.Lock()
	prev := c.assignment
	d.mu.Unlock()
	next, err := d.opts.Assigner.Assign(c.name, slices.Clone(addresses), prev)
	if err == nil {
		err = checkAssignment(next, addresses)
	}
	if err != nil {
		d.events.add(Event{Kind: Problem, Group: c.group.Name, Component: c.name, Reason: fmt.Sprintf("assignment refused, an equal split is used: %v", err)})
		next, _ = EqualSplit(c.name, addresses, prev)
	}
	if same := next == prev || sameSlices(next, prev); same {
		next = prev
	} else {
		next = protomsg.Clone(next)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	if gen != c.group.addressGen || prev != c.assignment {
		c.reassign() // it is out of date already
		return
	}
	d.setAssignmentLocked(c, next, c.assigned+1)
}

// setAssignmentLocked publishes the assignment, which becomes the component's
// under the version, or is the one that it has already.
func (d *Deployment) setAssignmentLocked(c *component, next *protos.Assignment, version uint64) {
	same := next == c.assignment
	if !same {
		next.Version = version
		c.assigned, c.assignment = version, next
	}
	if !same || c.routing == nil || !slices.Equal(c.routing.Replicas, c.group.addresses) {
		d.publishLocked(c, &protos.RoutingInfo{Component: c.name, Replicas: c.group.addresses, Assignment: c.assignment})
	}
}

// Reassign lets the [Assigner] look at all routed components again, for
// instance because it has seen new load.
func (d *Deployment) Reassign() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.components {
		if c.changed != nil {
			c.reassign()
		}
	}
}

// PublishAssignment replaces the assignment of a routed component by one that
// was made elsewhere; it is how a load-driven controller hands them over, see
// Options.Members. Its slices must name replicas that are there. Its version is
// kept if it is above that of the last assignment; otherwise it becomes one
// more than that, since versions only rise. Without Options.Members it stands
// until the [Assigner] is asked again.
func (d *Deployment) PublishAssignment(_ context.Context, component string, a *protos.Assignment) error {
	fail := func(err error) error { return fmt.Errorf("publish an assignment of %s: %w", component, err) }
	d.mu.Lock()
	c, ok := d.components[component]
	var addresses []string
	var routed bool
	var prev *protos.Assignment
	if ok {
		addresses, routed, prev = c.group.addresses, c.routed && c.active, c.assignment
	}
	d.mu.Unlock()
	switch {
	case !ok:
		return fail(errors.New("the application has no component of this name"))
	case !routed:
		return fail(errors.New("the component is not routed, or not active"))
	}
	// An assignment can have very many slices: this is not for under the lock.
	if err := checkAssignment(a, addresses); err != nil {
		return fail(err)
	}
	if same := sameSlices(a, prev); same {
		a = prev
	} else {
		a = protomsg.Clone(a)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case prev != c.assignment:
		return fail(errors.New("there is another one meanwhile"))
	case d.stopping:
		return fail(ErrStopped)
	case !slices.Equal(addresses, c.group.addresses):
		return fail(errors.New("the replicas have changed meanwhile"))
	}
	d.setAssignmentLocked(c, a, max(a.Version, c.assigned+1))
	return nil
}

// Assignments returns the newest assignments of all routed components, by
// name. They must not be modified.
func (d *Deployment) Assignments() map[string]*protos.Assignment {
	d.mu.Lock()
	defer d.mu.Unlock()
	assignments := map[string]*protos.Assignment{}
	for name, c := range d.components {
		if c.assignment != nil {
			assignments[name] = c.assignment
		}
	}
	return assignments
}

// next returns something that the weavelet does not know yet, if there is.
func (d *Deployment) next(r *replica) (message, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := r.slot.g
	if r.version < g.version {
		active := g.active
		return message{what: "update components", version: g.version, send: func(ctx context.Context, w Weavelet) error {
			return w.UpdateComponents(ctx, active)
		}}, true
	}
	for _, sub := range r.subs {
		c := sub.component
		if sub.version >= c.version {
			continue
		}
		routing, version := c.routing, c.version
		if c.group == g && !c.routed {
			routing, version = &protos.RoutingInfo{Component: c.name, Local: true}, toldForGood
		}
		return message{what: "update routing of " + placement.Shorten(c.name), version: version, sub: sub, send: func(ctx context.Context, w Weavelet) error {
			return w.UpdateRouting(ctx, routing)
		}}, true
	}
	return message{}, false
}

// told notes that the weavelet knows what the message says.
func (d *Deployment) told(r *replica, m message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.sub != nil {
		m.sub.version = m.version
	} else {
		r.version = m.version
	}
}
