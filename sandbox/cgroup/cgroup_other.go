//go:build !linux

package cgroup

import "os"

// Parent makes groups that limit and count nothing: there are no control groups on
// this system.
type Parent struct{}

// NewParent makes a Parent.
func NewParent() *Parent { return &Parent{} }

// Close does nothing.
func (p *Parent) Close() error { return nil }

// Group is no group.
type Group struct{ lacks []Lack }

// Create makes a group that enforces none of the limits.
func (p *Parent) Create(l Limits) (*Group, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	g := &Group{}
	for _, of := range l.Wanted() {
		g.lacks = append(g.lacks, Lack{of, "there are control groups on Linux only"})
	}
	return g, nil
}

// Entrances are none.
func (g *Group) Entrances() []*os.File { return nil }

// Lacks are all limits that were asked for.
func (g *Group) Lacks() []Lack { return g.lacks }

// Counts says that nothing is counted.
func (g *Group) Counts() bool { return false }

// Usage is nothing.
func (g *Group) Usage() Usage { return Usage{} }

// Close does nothing.
func (g *Group) Close() error { return nil }
