//go:build !linux

package main

// detachMounts has nothing to do on this system: the engine has a machine of its own.
func detachMounts(string) {}
