package remote

import (
	"context"
	"io"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

// DefaultConnections is Options.MaxConnections if that is zero.
const DefaultConnections = 8

// Options say which daemon is meant, and how it is spoken to. Dial is required.
type Options struct {
	// Dial opens a connection. Closing it must unblock its Read and Write.
	Dial func(ctx context.Context) (io.ReadWriteCloser, error)
	// Name is what errors call the daemon, as "ssh-ng://host".
	Name string
	// Dir is the store directory; "" stands for nix.DefaultStoreDir. The daemon does
	// not say which it has.
	Dir nix.StoreDir
	// SameMachine says that the daemon sees the files of this machine.
	SameMachine bool
	// MaxConnections is how many there are at most at a time; 0 stands for
	// DefaultConnections. One more keeps temporary roots, if there are any.
	MaxConnections int
	// MaxConnectionAge is how long a connection is used; 0 is for ever.
	MaxConnectionAge time.Duration
	// Settings are told to the daemon, which may not accept all of them. nil stands
	// for DefaultSettings.
	Settings *worker.SetOptions
	// Log takes what the daemon tells while it does anything but build; it may be nil.
	// What it tells of builds goes to their request's log.
	Log nix.LogSink
	// Version is the newest version of the protocol to speak; 0 stands for
	// worker.Newest.
	Version worker.Version
	// Limits bound the daemon's replies.
	Limits wire.Limits
}

// DefaultSettings are what Nix's client tells daemons if nobody configured
// anything.
func DefaultSettings() *worker.SetOptions {
	const info = 3 // the usual level of messages
	return &worker.SetOptions{Verbosity: info, MaxBuildJobs: 1, UseSubstitute: true}
}
