// Package keylock has locks by key, for the goroutines of one process: who holds
// a key keeps others away from that key only, and who waits for one can stop
// waiting.
//
// It knows nothing of files or of other processes. A lock between processes
// (flock) conflicts with one of the same process only where each was opened by
// itself, and can be waited for only by polling: code that needs such a lock
// takes the one from here first, and polls on behalf of all.
package keylock
