package conf

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseStoreURI(t *testing.T) {
	p := func(pairs ...string) url.Values {
		v := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	for _, tt := range []struct {
		text  string
		want  StoreURI
		again string // how it prints, if not as text
	}{
		{"", StoreURI{Scheme: SchemeAuto}, "auto"},
		{"auto", StoreURI{Scheme: SchemeAuto}, ""},
		{"auto?root=/foo", StoreURI{Scheme: SchemeAuto, Params: p("root", "/foo")}, "auto?root=%2Ffoo"},
		{"daemon", StoreURI{Scheme: SchemeDaemon}, ""},
		{"unix://", StoreURI{Scheme: SchemeDaemon}, "daemon"},
		{"daemon?max-connections=7&trusted=true", StoreURI{Scheme: SchemeDaemon, Params: p("max-connections", "7", "trusted", "true")}, "unix://?max-connections=7&trusted=true"},
		{"unix:///run/sock%20et", StoreURI{Scheme: SchemeDaemon, Path: "/run/sock et"}, ""},
		{"local", StoreURI{Scheme: SchemeLocal}, ""},
		{"local://", StoreURI{Scheme: SchemeLocal}, "local"},
		{"local?root=/foo bar/baz", StoreURI{Scheme: SchemeLocal, Params: p("root", "/foo bar/baz")}, "local://?root=%2Ffoo%20bar%2Fbaz"},
		{"local?root=/r/&real=/a//b&state=/s&log=/l&store=/x&build-dir=/y&read-only=true",
			StoreURI{Scheme: SchemeLocal, Params: p("root", "/r", "real", "/a/b", "state", "/s", "log", "/l", "store", "/x", "build-dir", "/y", "read-only", "true")},
			"local://?build-dir=%2Fy&log=%2Fl&read-only=true&real=%2Fa%2Fb&root=%2Fr&state=%2Fs&store=%2Fx"},
		{"/foo/../bar//baz?trusted=true", StoreURI{Scheme: SchemeLocal, Path: "/bar/baz", Params: p("trusted", "true")}, "local:///bar/baz?trusted=true"},
		{"./x", StoreURI{Scheme: SchemeLocal, Path: "/here/x"}, "local:///here/x"},
		{"x/y", StoreURI{Scheme: SchemeLocal, Path: "/here/x/y"}, "local:///here/x/y"},
		{"/with%20percent", StoreURI{Scheme: SchemeLocal, Path: "/with%20percent"}, "local:///with%2520percent"},
		{"local:///with%20space", StoreURI{Scheme: SchemeLocal, Path: "/with space"}, ""},
		{"/r?root=/r", StoreURI{Scheme: SchemeLocal, Path: "/r", Params: p("root", "/r")}, "local:///r?root=%2Fr"},
		{"ssh://localhost", StoreURI{Scheme: SchemeSSH, Authority: "localhost"}, ""},
		{"ssh-ng://me@host:2222/?compress=yes&remote-program=nix-daemon%20-v",
			StoreURI{Scheme: SchemeSSHNG, Authority: "me@host:2222", Params: p("compress", "yes", "remote-program", "nix-daemon -v")},
			"ssh-ng://me@host:2222?compress=yes&remote-program=nix-daemon%20-v"},
		{"ssh://h?base64-ssh-public-host-key=AAAA+B/c==", StoreURI{Scheme: SchemeSSH, Authority: "h", Params: p("base64-ssh-public-host-key", "AAAA+B/c==")},
			"ssh://h?base64-ssh-public-host-key=AAAA%2BB%2Fc%3D%3D"},
		{"ssh://::1", StoreURI{Scheme: SchemeSSH, Authority: "[::1]"}, "ssh://[::1]"},
		{"ssh://[::1]:22", StoreURI{Scheme: SchemeSSH, Authority: "[::1]:22"}, ""},
		{"ssh://userinfo@fea5:23e1:3916:fc24:cb52:2837:2ecb:ea8e", StoreURI{Scheme: SchemeSSH, Authority: "userinfo@[fea5:23e1:3916:fc24:cb52:2837:2ecb:ea8e]"}, "ssh://userinfo@[fea5:23e1:3916:fc24:cb52:2837:2ecb:ea8e]"},
		{"ssh://u@[fe80::1%25eth0]?trusted=0", StoreURI{Scheme: SchemeSSH, Authority: "u@[fe80::1%25eth0]", Params: p("trusted", "0")}, ""},
		{"ssh://u@fe80::1%eth0", StoreURI{Scheme: SchemeSSH, Authority: "u@[fe80::1%25eth0]"}, "ssh://u@[fe80::1%25eth0]"},
		{"ssh://u@fe80::1%25", StoreURI{Scheme: SchemeSSH, Authority: "u@[fe80::1]"}, "ssh://u@[fe80::1]"},
		{"file:///var/cache?compression=zstd", StoreURI{Scheme: SchemeFile, Path: "/var/cache", Params: p("compression", "zstd")}, ""},
		{"https://cache.nixos.org", StoreURI{Scheme: SchemeHTTPS, Authority: "cache.nixos.org"}, ""},
		{"https://cache.nixos.org/", StoreURI{Scheme: SchemeHTTPS, Authority: "cache.nixos.org", Path: "/"}, ""},
		{"HTTP://u:p@host:8080/a%2Fb?priority=-10", StoreURI{Scheme: SchemeHTTP, Authority: "u:p@host:8080", Path: "/a%2Fb", Params: p("priority", "-10")}, "http://u:p@host:8080/a%2Fb?priority=-10"},
		{"s3://bucket?region=eu-west-1&endpoint=x:9000&scheme=http&multipart-chunk-size=10M",
			StoreURI{Scheme: SchemeS3, Authority: "bucket", Params: p("region", "eu-west-1", "endpoint", "x:9000", "scheme", "http", "multipart-chunk-size", "10M")},
			"s3://bucket?endpoint=x%3A9000&multipart-chunk-size=10M&region=eu-west-1&scheme=http"},
		{"dummy://?read-only=false", StoreURI{Scheme: SchemeDummy, Params: p("read-only", "false")}, ""},
		{"ssh://h?remote-store=local%3Froot%3D/x", StoreURI{Scheme: SchemeSSH, Authority: "h", Params: p("remote-store", "local?root=/x")}, "ssh://h?remote-store=local%3Froot%3D%2Fx"},
	} {
		got, err := ParseStoreURI(tt.text, "/here")
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q (-want +got)\n%s", tt.text, diff)
		}
		want := tt.again
		if want == "" {
			want = tt.text
		}
		if got.String() != want {
			t.Errorf("%q prints as %q, want %q", tt.text, got.String(), want)
		}
	}
}

func TestParseStoreURIRefuses(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"foo", "parse store 'foo': it is neither auto, daemon, local, a URL, nor a path"},
		{"nope?x=y", "it is neither auto"},
		{"ftp://x", "don't know how to open Nix store with scheme 'ftp'; known are auto, dummy, file,"},
		{"local-overlay://", "kiln doesn't support stores of scheme 'local-overlay'"},
		{"local?rooot=/x", "unknown parameter 'rooot'; a store of scheme 'local' takes build-dir, "},
		{"ssh://h?root=/x", "unknown parameter 'root'"},
		{"local?root", "parameter 'root' has no value"},
		{"local?root=/a&root=/b", "parameter 'root' is given twice"},
		{"local?root=x", "setting 'root' has invalid value 'x': not an absolute path"},
		{"local?real=", "'real' is a path and paths cannot be empty"},
		{"local?read-only=maybe", "Boolean setting 'read-only' has invalid value 'maybe'"},
		{"daemon?max-connections=-1", "setting 'max-connections' has invalid value '-1'"},
		{"/a?root=/b", "the roots '/a' and '/b' contradict each other"},
		{"local?root=/%zz", "invalid URL escape"},
		{"local?root=/%00", "parameter 'root' contains a NUL"},
		{"unix://run/socket", "'run/socket' is not an absolute path; write unix:///path"},
		{"file://cache", "'cache' is not an absolute path"},
		{"file:///a%00b", "is not an absolute path"},
		{"ssh://", "the host is missing"},
		{"ssh://me@", "the host is missing"},
		{"ssh://host/path", "want ssh://[USER@]HOST[:PORT]"},
		{"ssh://host:99999", "'99999' is not a port"},
		{"ssh://ho st", "want ssh://"},
		{"ssh://-oProxyCommand=x", "must not begin with '-'"},
		{"ssh://-l@host", "must not begin with '-'"},
		{"https://", "the host is missing"},
		{"https:///path", "the host is missing"},
		{"https://h/#x", "a store has no fragment"},
		{"s3://", "want s3://BUCKET"},
		{"s3://bucket/prefix", "want s3://BUCKET"},
		{"dummy://x", "want dummy://"},
		{"/x\x00", "contains a NUL"},
		{"https://u:hunter2@h?x=y", "parse store 'https://u:xxxxx@h?x=y'"},
	} {
		got, err := ParseStoreURI(tt.text, "/here")
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %+v, %v; want an error with %q", tt.text, got, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error tells the password: %v", tt.text, err)
		}
	}
	if u, err := ParseStoreURI("./x", ""); err == nil {
		t.Errorf("a relative path without a directory to start from: %v", u)
	}
}

func TestStoreURIBool(t *testing.T) {
	u, err := ParseStoreURI("local?read-only=yes&require-sigs=0", "")
	if err != nil {
		t.Fatal(err)
	}
	if !u.Bool("read-only", false) || u.Bool("require-sigs", true) || !u.Bool("trusted", true) || u.Bool("trusted", false) {
		t.Errorf("%v: booleans are read wrongly", u)
	}
}

func TestRedacted(t *testing.T) {
	u, err := ParseStoreURI("https://me:secret@h/p?priority=1", "")
	if err != nil {
		t.Fatal(err)
	}
	if got := u.Redacted(); got != "https://me:xxxxx@h/p?priority=1" {
		t.Errorf("got %s", got)
	}
}

// FuzzParseStoreURI holds that what is printed reads back as the same.
func FuzzParseStoreURI(f *testing.F) {
	for _, text := range []string{
		"", "auto", "daemon", "local?root=/r", "/a/b?trusted=1", "./x", "unix:///s", "ssh://u@h:1", "ssh-ng://::1", "ssh://fe80::1%eth0",
		"https://u:p@h/x%20y?priority=1", "s3://b?region=x", "file:///%41", "dummy://", "ssh://h?base64-ssh-public-host-key=a+b",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseStoreURI(text, "/here")
		if err != nil {
			return
		}
		again, err := ParseStoreURI(u.String(), "")
		if err != nil {
			t.Fatalf("%q is printed as %q, which is refused: %v", text, u.String(), err)
		}
		if diff := cmp.Diff(u, again); diff != "" {
			t.Fatalf("%q is printed as %q, which is something else (-first +second)\n%s", text, u.String(), diff)
		}
		if u.Path != "" && u.Path[0] != '/' {
			t.Fatalf("%q has the path %q", text, u.Path)
		}
	})
}
