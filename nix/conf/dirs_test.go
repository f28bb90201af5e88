package conf

import (
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestDirs(t *testing.T) {
	usual := Dirs{Store: "/nix/store", State: "/nix/var/nix", Log: "/nix/var/log/nix", Conf: "/etc/nix"}
	with := func(f func(*Dirs)) Dirs { d := usual; f(&d); return d }
	for _, tt := range []struct {
		vars map[string]string
		want Dirs
		err  string
	}{
		{nil, usual, ""},
		{map[string]string{"NIX_STORE": "/s"}, with(func(d *Dirs) { d.Store = "/s" }), ""},
		{map[string]string{"NIX_STORE": "/s", "NIX_STORE_DIR": "/t//u/"}, with(func(d *Dirs) { d.Store = "/t/u" }), ""},
		{map[string]string{"NIX_STORE": "", "NIX_STORE_DIR": "", "NIX_STATE_DIR": ""}, usual, ""},
		{map[string]string{"NIX_STATE_DIR": "/a", "NIX_LOG_DIR": "/b", "NIX_CONF_DIR": "/c", "NIX_DAEMON_SOCKET_PATH": "/d"},
			with(func(d *Dirs) { d.State, d.Log, d.Conf, d.Socket = "/a", "/b", "/c", "/d" }), ""},
		{map[string]string{"NIX_LOG_DIR": "b"}, Dirs{}, `read NIX_LOG_DIR: not an absolute path: "b"`},
	} {
		got, err := Environment{Lookup: variables(tt.vars)}.Dirs()
		if tt.err != "" {
			if err == nil || err.Error() != tt.err {
				t.Errorf("%v: error %v, want %s", tt.vars, err, tt.err)
			}
			continue
		}
		if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreUnexported(Dirs{})); err != nil || diff != "" {
			t.Errorf("%v: %v (-want +got)\n%s", tt.vars, err, diff)
		}
	}
	if got := usual.SocketIn("/s"); got != "/s/daemon-socket/socket" {
		t.Errorf("socket %q", got)
	}
	if got := with(func(d *Dirs) { d.Socket = "/d" }).SocketIn("/s"); got != "/d" {
		t.Errorf("socket %q, want the one that is named", got)
	}
}

func TestLocalDirs(t *testing.T) {
	d, err := Environment{}.Dirs()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]LocalDirs{
		"local":                    {"/nix/store", "/nix/store", "/nix/var/nix", "/nix/var/log/nix", "/nix/var/nix/builds"},
		"/r":                       {"/nix/store", "/r/nix/store", "/r/nix/var/nix", "/r/nix/var/log/nix", "/r/nix/var/nix/builds"},
		"unix:///run/sock?root=/r": {"/nix/store", "/r/nix/store", "/r/nix/var/nix", "/r/nix/var/log/nix", "/r/nix/var/nix/builds"},
		"unix:///run/sock":         {"/nix/store", "/nix/store", "/nix/var/nix", "/nix/var/log/nix", "/nix/var/nix/builds"},
		"local?root=/r&store=/s":   {"/s", "/r/nix/store", "/r/nix/var/nix", "/r/nix/var/log/nix", "/r/nix/var/nix/builds"},
		"local?store=/s/":          {"/s", "/s", "/nix/var/nix", "/nix/var/log/nix", "/nix/var/nix/builds"},
		"local?root=/r&real=/a&state=/b/&log=/c&build-dir=/d//e": {"/nix/store", "/a", "/b", "/c", "/d/e"},
		"auto?root=": {"/nix/store", "/nix/store", "/nix/var/nix", "/nix/var/log/nix", "/nix/var/nix/builds"},
	} {
		u, err := ParseStoreURI(text, "")
		if err != nil {
			t.Error(err)
			continue
		}
		got := d.Local(u)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", text, diff)
		}
		if got.Chroot() != (want.Store != want.Real) {
			t.Errorf("%s: chroot %v", text, got.Chroot())
		}
	}
}

func TestDefaultStore(t *testing.T) {
	user := StoreFacts{Linux: true, UserStore: "/home/u/.local/share/nix/root"}
	with := func(f func(*StoreFacts)) StoreFacts { x := user; f(&x); return x }
	for _, tt := range []struct {
		name, uri string
		facts     StoreFacts
		want      string
	}{
		{"the state can be written", "auto", with(func(f *StoreFacts) { f.StateUsable, f.StateExists, f.SocketExists = true, true, true }), "local"},
		{"a daemon listens", "auto", with(func(f *StoreFacts) { f.StateExists, f.SocketExists = true, true }), "daemon"},
		{"a daemon listens, with parameters", "auto?trusted=1", with(func(f *StoreFacts) { f.SocketExists = true }), "unix://?trusted=1"},
		{"nothing installed", "auto", user, "local:///home/u/.local/share/nix/root"},
		{"nothing installed, no home", "auto", with(func(f *StoreFacts) { f.UserStore = "" }), "local"},
		{"nothing installed, root", "auto", with(func(f *StoreFacts) { f.Root = true }), "local"},
		{"nothing installed, macOS", "auto", with(func(f *StoreFacts) { f.Linux = false }), "local"},
		{"nothing installed, directories named", "auto", with(func(f *StoreFacts) { f.DirsNamed = true }), "local"},
		{"nothing installed, parameters", "auto?root=/r", user, "local://?root=%2Fr"},
		{"installed, but closed", "auto", with(func(f *StoreFacts) { f.StateExists = true }), "local"},
		{"said otherwise", "ssh://h", user, "ssh://h"},
		{"said local", "local", with(func(f *StoreFacts) { f.SocketExists = true }), "local"},
	} {
		u, err := ParseStoreURI(tt.uri, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := DefaultStore(u, tt.facts).String(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestStoreFacts(t *testing.T) {
	auto := StoreURI{Scheme: SchemeAuto, Params: url.Values{}}
	env := machine(map[string]string{"/nix/var/nix/db/db.sqlite": "", "/nix/var/nix/daemon-socket/socket": ""}, nil)
	env.ReadWrite = func(name string) bool { return name == "/nix/var/nix" }
	d, err := env.Dirs()
	if err != nil {
		t.Fatal(err)
	}
	want := StoreFacts{StateUsable: true, StateExists: true, SocketExists: true, Linux: true, UserStore: "/home/u/.local/share/nix/root"}
	if diff := cmp.Diff(want, env.StoreFacts(d, auto)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	env = machine(map[string]string{"/sock": ""}, map[string]string{
		"NIX_STATE_DIR": "", "NIX_DAEMON_SOCKET_PATH": "/sock", "XDG_DATA_HOME": "/data",
	})
	env.UID = 0
	if d, err = env.Dirs(); err != nil {
		t.Fatal(err)
	}
	want = StoreFacts{SocketExists: true, Linux: true, Root: true, DirsNamed: true, UserStore: "/data/nix/root"}
	if diff := cmp.Diff(want, env.StoreFacts(d, auto)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	env = machine(map[string]string{"/r/nix/var/nix/x": ""}, map[string]string{"NIX_DATA_HOME": "/own"})
	if d, err = env.Dirs(); err != nil {
		t.Fatal(err)
	}
	auto.Params.Set("root", "/r")
	want = StoreFacts{StateExists: true, Linux: true, UserStore: "/own/root"}
	if diff := cmp.Diff(want, env.StoreFacts(d, auto)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
