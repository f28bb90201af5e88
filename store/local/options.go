package local

import (
	"path/filepath"

	"github.com/kilnbuild/kiln/nix"
)

// Options say where a store is and how it behaves. The zero value is Nix's own
// store without the guarantees that cost time: no syncing, and a rollback
// journal in the place of a write-ahead log. ChrootOptions has better defaults.
type Options struct {
	// StoreDir is the logical store directory, nix.DefaultStoreDir if empty.
	StoreDir nix.StoreDir
	// RealStoreDir is where the objects are on this machine, StoreDir if empty.
	RealStoreDir string
	// StateDir has the database, roots and locks; "/nix/var/nix" if empty.
	StateDir string
	// LogDir has the build logs; "/nix/var/log/nix" if empty.
	LogDir string
	// ScratchDirs are further directories below which Note accepts paths, for
	// example that of the build directories, and below which Recover removes.
	ScratchDirs []string

	// ReadOnly opens a store that exists, and changes nothing in it but the files
	// that SQLite keeps beside its database.
	ReadOnly bool
	// ReservedSpace is the size in bytes of a file that a collector removes when the disk
	// is full, to have room for what it has to write itself; 0 for none. (Nix:
	// gc-reserved-space.)
	ReservedSpace int64
	// FreeReserve removes the file that keeps space for collectors before anything
	// else, so that a store on a full disk can be opened. Collect removes it in any
	// case, and it is made again when a collection ends.
	FreeReserve bool
	// AllowSymlinks accepts a RealStoreDir that is or lies behind a symbolic link.
	AllowSymlinks bool
	// BuildUsersGroup is the id of the group whose members build. When root opens
	// the store, the store directory is made writable for it. Zero or less means
	// that there is none.
	BuildUsersGroup int

	// FsyncMetadata lets SQLite sync its files, so that a power failure does not
	// damage the database.
	FsyncMetadata bool
	// FsyncStorePaths syncs objects before they are registered.
	FsyncStorePaths bool
	// UseSQLiteWAL lets SQLite use a write-ahead log, so that nobody waits for
	// readers. It does not work on network file systems. Without it the database is
	// locked by a file, as by Nix, which stays if the process is killed meanwhile.
	UseSQLiteWAL bool
	// CompressLogs compresses build logs after they are complete.
	CompressLogs bool
	// AutoOptimise replaces files that the store has already by hard links, when
	// objects are registered.
	AutoOptimise bool
	// CADerivations makes the tables for realisations where they are missing.
	CADerivations bool

	// VerifySignatures tells whether an object that is not content-addressed comes
	// with a signature that is trusted. It is asked for adding with
	// CheckSignatures. If it is nil, no signature is trusted.
	VerifySignatures func(*nix.PathInfo) error
	// RecoverTransient removes what sessions of dead processes have noted, by
	// kinds that this package does not know. It must not mind when nothing is
	// there. What has a kind of neither is left for somebody who knows it.
	RecoverTransient map[Transient]func(path string) error
	// Warn is told of trouble that stops nothing: remains of a dead session that
	// cannot be removed, a log that cannot be compressed, a long wait for another
	// process. It is called from any goroutine. If it is nil, nobody hears of it.
	Warn func(error)
}

// ChrootOptions are the options for the store with the root directory root, in
// which objects believe that they are in "/nix/store". They sync the database,
// use a write-ahead log, compress build logs, and reserve space, as Nix does by default.
func ChrootOptions(root string) Options {
	return Options{
		RealStoreDir:  filepath.Join(root, "nix/store"),
		StateDir:      filepath.Join(root, "nix/var/nix"),
		LogDir:        filepath.Join(root, "nix/var/log/nix"),
		FsyncMetadata: true,
		UseSQLiteWAL:  true,
		CompressLogs:  true,
		ReservedSpace: 8 << 20,
	}
}

func (o Options) withDefaults() Options {
	if o.StoreDir == "" {
		o.StoreDir = nix.DefaultStoreDir
	}
	if o.RealStoreDir == "" {
		o.RealStoreDir = string(o.StoreDir)
	}
	if o.StateDir == "" {
		o.StateDir = "/nix/var/nix"
	}
	if o.LogDir == "" {
		o.LogDir = "/nix/var/log/nix"
	}
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	return o
}
