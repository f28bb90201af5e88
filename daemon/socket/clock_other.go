//go:build !linux

package socket

// Reloading is what Notify is to be told when a reload begins; it ends with READY=1.
func Reloading() []string { return []string{"RELOADING=1"} }
