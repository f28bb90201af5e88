package daemon

import (
	"context"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

// DefaultNixVersion is Config.NixVersion if that is empty. Clients do no more with
// it than to print it; programs around them may compare it with versions of Nix.
const DefaultNixVersion = "2.34.8"

// Config is what a client is given. Its values are shared by connections, so they
// are safe for concurrent use.
type Config struct {
	// Store has the objects. What it can beyond store.Store is found by the
	// interfaces of the packages store and daemon; requests that need more are
	// refused. It may refuse any request itself: its errors go to the client.
	Store store.Store
	// Builder builds what is asked for. If it is nil, nothing is built.
	Builder nix.Builder
	// Trust is what the client is told, and decides what it may do. TrustUnknown
	// lets it do what NotTrusted does.
	Trust worker.Trust
	// NixVersion is what the client is told to talk to; "" for DefaultNixVersion.
	NixVersion string
	// SetOptions, if set, is called with the settings of the client, which it is
	// to believe as far as Trust goes. It tells the client through log what it does
	// not accept. It may give another Builder for the rest of the connection, or nil.
	SetOptions func(ctx context.Context, o *worker.SetOptions, log nix.LogSink) (nix.Builder, error)
	// Refusal, if set, is what the client is told instead of being served, after the
	// handshake.
	Refusal error
	// Drain, when it is closed, ends the connection as soon as no request is being
	// carried out. nil never does.
	Drain <-chan struct{}
	// TempDir is where objects are kept while their path is not known yet; "" for
	// that of the system.
	TempDir string
	Limits  Limits
}

// Limits bound what a client can make the daemon keep. The zero value of each field
// stands for what is said there.
type Limits struct {
	// Wire bounds requests.
	Wire wire.Limits
	// Dump is the size in bytes of an object that is added and whose path is not
	// known before its content is. Zero stands for no limit; it is not in memory.
	Dump int64
	// Log is how many bytes of messages wait for a client that reads too slowly;
	// beyond that, messages are left out, and the client is told how many. Zero
	// stands for DefaultLog.
	Log int
	// Handshake is how long the client may take to say what it speaks, if conn has
	// deadlines. Zero stands for DefaultHandshake.
	Handshake time.Duration
	// Stall is how long the client may take nothing of a reply before it is given up.
	// Zero stands for DefaultStall.
	Stall time.Duration
}

// DefaultStall is the default of Limits.Stall. Who copies from one daemon to another may
// wait for a lock meanwhile, and a person may have stopped the client's program.
const DefaultStall = time.Hour

// DefaultHandshake is the default of Limits.Handshake: a client on a machine that is
// busy, or at the other end of a slow connection, has it easy.
const DefaultHandshake = 30 * time.Second

// DefaultLog is the default of Limits.Log.
const DefaultLog = 1 << 20
