// Package cgroup puts programs into control groups: it limits what they take of
// the machine, and counts it. It owns the directories that it makes below the group
// in which this process is, on both versions of the kernel's interface and on
// machines that have some controllers in one and some in the other. What the
// programs are is not its business, nor is it who may ask for which limit.
//
// A machine, or a user, without a controller is no error: a Group says which limits
// are not enforced and why.
package cgroup
