package conf

import (
	"fmt"
	"path"
)

// Dirs are the directories of an installation, as the environment names them.
// All are absolute and clean (Nix manual, "Common Environment Variables").
type Dirs struct {
	Store string // the logical store directory: NIX_STORE_DIR, else NIX_STORE, else /nix/store
	State string // database, roots, locks: NIX_STATE_DIR, else /nix/var/nix
	Log   string // build logs: NIX_LOG_DIR, else /nix/var/log/nix
	Conf  string // nix.conf, machines, netrc: NIX_CONF_DIR, else /etc/nix
	// Socket is NIX_DAEMON_SOCKET_PATH, or "" if the daemon's socket is where the
	// state directory has it.
	Socket string

	named bool // NIX_STORE_DIR or NIX_STATE_DIR is set, be it to nothing
}

// Dirs reads the directories from the environment. A name that is not absolute
// is an error; an empty one counts as none.
func (e Environment) Dirs() (Dirs, error) {
	d := Dirs{Store: "/nix/store", State: "/nix/var/nix", Log: "/nix/var/log/nix", Conf: "/etc/nix"}
	for _, v := range []struct {
		name string
		dir  *string
	}{
		{"NIX_STORE", &d.Store},
		{"NIX_STORE_DIR", &d.Store}, // after NIX_STORE: it wins
		{"NIX_STATE_DIR", &d.State},
		{"NIX_LOG_DIR", &d.Log},
		{"NIX_CONF_DIR", &d.Conf},
		{"NIX_DAEMON_SOCKET_PATH", &d.Socket},
	} {
		text, ok := e.nonEmpty(v.name)
		if !ok {
			continue
		}
		if !path.IsAbs(text) {
			return Dirs{}, fmt.Errorf("read %s: not an absolute path: %q", v.name, text)
		}
		*v.dir = path.Clean(text)
	}
	_, store := e.lookup("NIX_STORE_DIR")
	_, state := e.lookup("NIX_STATE_DIR")
	d.named = store || state
	return d, nil
}

// confDir is Dirs.Conf for the defaults, which cannot fail.
func (e Environment) confDir() string {
	d, err := e.Dirs()
	if err != nil {
		return "/etc/nix"
	}
	return d.Conf
}

// SocketIn gives the daemon's socket for a store with its state in the given
// directory.
func (d Dirs) SocketIn(state string) string {
	if d.Socket != "" {
		return d.Socket
	}
	return state + "/daemon-socket/socket"
}

// LocalDirs are the directories of one local store. All are absolute and clean.
type LocalDirs struct {
	Store string // logical: what stands in store paths and goes into their hashes
	Real  string // where the objects are
	State string
	Log   string
	Build string // where builds get their temporary directories, unless the setting build-dir says
}

// Chroot tells whether the objects are somewhere else than their paths say, so
// that what is built there needs a sandbox to find them.
func (l LocalDirs) Chroot() bool { return l.Real != l.Store }

// Local gives the directories of the local store that u means, or of the one
// behind the daemon that it means; the daemon's socket is SocketIn the state.
// Below a root, everything but the logical store directory moves.
func (d Dirs) Local(u StoreURI) LocalDirs {
	root := ""
	if u.Scheme == SchemeLocal {
		root = u.Path
	}
	if r := u.Params.Get("root"); r != "" {
		root = path.Clean(r)
	}
	l := LocalDirs{Store: d.Store, Real: d.Store, State: d.State, Log: d.Log}
	if s := u.Params.Get("store"); s != "" {
		l.Store, l.Real = path.Clean(s), path.Clean(s)
	}
	if root != "" {
		l.Real = path.Join(root, "nix/store")
		l.State = path.Join(root, "nix/var/nix")
		l.Log = path.Join(root, "nix/var/log/nix")
	}
	for name, dir := range map[string]*string{"real": &l.Real, "state": &l.State, "log": &l.Log} {
		if v := u.Params.Get(name); v != "" {
			*dir = path.Clean(v)
		}
	}
	l.Build = l.State + "/builds"
	if v := u.Params.Get("build-dir"); v != "" {
		l.Build = path.Clean(v)
	}
	return l
}

// CacheDir is where Nix keeps what it can do without, for this user; "" if there is no
// home.
func (e Environment) CacheDir() string {
	return e.userDir("NIX_CACHE_HOME", "XDG_CACHE_HOME", ".cache")
}

// StoreFacts is what DefaultStore decides by.
type StoreFacts struct {
	StateUsable  bool // this user may read and write the state directory
	StateExists  bool
	SocketExists bool
	Linux        bool
	Root         bool   // the user is the superuser
	DirsNamed    bool   // NIX_STORE_DIR or NIX_STATE_DIR is set
	UserStore    string // root of the chroot store of an ordinary user; "" if there can be none
}

// StoreFacts looks at the machine for DefaultStore.
func (e Environment) StoreFacts(d Dirs, u StoreURI) StoreFacts {
	state := d.Local(u).State
	f := StoreFacts{
		StateUsable:  e.ReadWrite != nil && e.ReadWrite(state),
		StateExists:  e.exists(state),
		SocketExists: e.exists(d.SocketIn(state)),
		Linux:        e.OS == "linux",
		Root:         e.root(),
		DirsNamed:    d.named,
	}
	if dir := e.userDir("NIX_DATA_HOME", "XDG_DATA_HOME", ".local/share"); dir != "" {
		f.UserStore = path.Join(dir, "root")
	}
	return f
}

// DefaultStore says which store "auto" is: the local one if this user may write
// its state, else the daemon if it listens, else, for an ordinary user of a Linux
// machine without an installation, a chroot store in the user's home, else the
// local one again, to fail with a reason. Parameters stay; other URIs come back
// as they are. (Nix manual, "Store Types", auto.)
//
// The chroot store need not exist. If its directory cannot be made, the local
// store is meant.
func DefaultStore(u StoreURI, f StoreFacts) StoreURI {
	if u.Scheme != SchemeAuto {
		return u
	}
	switch {
	case f.StateUsable:
		u.Scheme = SchemeLocal
	case f.SocketExists:
		u.Scheme = SchemeDaemon
	case !f.StateExists && len(u.Params) == 0 && f.Linux && !f.Root && !f.DirsNamed && f.UserStore != "":
		u.Scheme, u.Path = SchemeLocal, f.UserStore
	default:
		u.Scheme = SchemeLocal
	}
	return u
}
