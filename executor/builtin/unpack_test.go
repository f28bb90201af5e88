package builtin

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	dsnet "github.com/dsnet/compress/bzip2"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

// member is what a tar file has in it; a name that ends in / is a directory, a
// target makes a link.
type member struct {
	name, content, target string
	kind                  byte
	mode                  int64
}

func tarFile(t testing.TB, members ...member) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Linkname: m.target, Mode: m.mode, Size: int64(len(m.content))}
		if m.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpacking(t testing.TB, content []byte) *Request {
	dir := t.TempDir()
	src := filepath.Join(dir, "channel.tar")
	if err := os.WriteFile(src, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return &Request{
		Builder: "builtin:unpack-channel", Env: map[string]string{"channelName": "chan", "src": src},
		Outputs: map[string]string{"out": filepath.Join(dir, "store", "out")},
	}
}

var channel = []member{
	{name: "pax", kind: tar.TypeXGlobalHeader},
	{name: "./top-1.2/", kind: tar.TypeDir},
	{name: "top-1.2/run", content: "#!", mode: 0o4711},
	{name: "top-1.2/sub/plain", content: "text", mode: 0o600},
	{name: "top-1.2/link", kind: tar.TypeSymlink, target: "sub/plain"},
	{name: "top-1.2/hard", kind: tar.TypeLink, target: "top-1.2/run"},
	{name: "top-1.2/twice", content: "first"},
	{name: "top-1.2/twice", content: "second"},
}

func TestUnpackChannel(t *testing.T) {
	plain := tarFile(t, channel[1:]...)
	var zipped, bzipped, zstandard bytes.Buffer
	gz := gzip.NewWriter(&zipped)
	bz, err := dsnet.NewWriter(&bzipped, nil)
	if err != nil {
		t.Fatal(err)
	}
	zs, err := zstd.NewWriter(&zstandard)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []interface {
		Write([]byte) (int, error)
		Close() error
	}{gz, bz, zs} {
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string][]byte{"tar": plain, "gzip": zipped.Bytes(), "bzip2": bzipped.Bytes(), "zstd": zstandard.Bytes()} {
		t.Run(name, func(t *testing.T) {
			r := unpacking(t, content)
			if log, ok := built(t, r); !ok {
				t.Fatal(log)
			}
			got := make(map[string]string)
			root := r.Outputs["out"]
			err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
				if err != nil || e.IsDir() {
					return err
				}
				info, err := e.Info()
				if err != nil {
					return err
				}
				rel, _ := filepath.Rel(root, p)
				if e.Type() == fs.ModeSymlink {
					got[rel], err = os.Readlink(p)
					return err
				}
				text, err := os.ReadFile(p)
				got[rel] = info.Mode().String() + " " + string(text)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{
				"chan/run": "-rwxr-xr-x #!", "chan/hard": "-rwxr-xr-x #!", "chan/sub/plain": "-rw-r--r-- text",
				"chan/link": "sub/plain", "chan/twice": "-rw-r--r-- second",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestUnpackChannelRefuses(t *testing.T) {
	one := tarFile(t, member{name: "a"})
	for _, test := range []struct {
		name    string
		content []byte
		edit    func(*Request)
		words   string
	}{
		{"name", one, func(r *Request) { r.Env["channelName"] = "a/b" }, "channelName is not allowed to contain filesystem separators, got \"a/b\""},
		{"name out", one, func(r *Request) { r.Env["channelName"] = ".." }, "channelName is not allowed to contain filesystem separators"},
		{"no name", one, func(r *Request) { delete(r.Env, "channelName") }, "attribute 'channelName' missing"},
		{"no src", one, func(r *Request) { delete(r.Env, "src") }, "attribute 'src' missing"},
		{"empty", tarFile(t), nil, "is empty"},
		{"two", tarFile(t, member{name: "a"}, member{name: "b"}), nil, "contains more than one file"},
		{"cut", tarFile(t, channel[1:]...)[:1000], nil, "unexpected EOF"},
		{"garbage", bytes.Repeat([]byte("x"), 1024), nil, "invalid tar header"},
		{"device", tarFile(t, member{name: "a", kind: tar.TypeChar}), nil, "no file, directory or link"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := unpacking(t, test.content)
			if test.edit != nil {
				test.edit(r)
			}
			mustFail(t, r, test.words)
		})
	}
}

// TestT21Members unpacks files that try to reach what is outside.
func TestT21Members(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(outside, []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(outside)
	up := "../../../../../../../../.." + dir
	for _, test := range []struct {
		name    string
		members []member
		words   string // "" where the member has a place within
	}{
		{"absolute", []member{{name: outside, content: "x"}}, ""},
		{"up", []member{{name: up + "/victim", content: "x"}}, "'..'"},
		{"up within", []member{{name: "a/../../../victim", content: "x"}}, "'..'"},
		{"through a link", []member{{name: "a", kind: tar.TypeSymlink, target: dir}, {name: "a/victim", content: "x"}}, "escapes"},
		{"through a relative link", []member{{name: "a", kind: tar.TypeSymlink, target: up}, {name: "a/victim", content: "x"}}, "escapes"},
		{"through links of links", []member{
			{name: "d", kind: tar.TypeDir}, {name: "d/a", kind: tar.TypeSymlink, target: ".."}, {name: "d/b", kind: tar.TypeSymlink, target: "a/.."},
			{name: "d/b/../victim", content: "x"},
		}, "'..'"},
		{"directory through a link", []member{{name: "a", kind: tar.TypeSymlink, target: dir}, {name: "a/new", kind: tar.TypeDir}}, "escapes"},
		{"hard link", []member{{name: "a", kind: tar.TypeLink, target: outside}}, "no such file"},
		{"hard link up", []member{{name: "a", kind: tar.TypeLink, target: up + "/victim"}}, "'..'"},
		{"hard link through a link", []member{{name: "l", kind: tar.TypeSymlink, target: dir}, {name: "a", kind: tar.TypeLink, target: "l/victim"}}, "escapes"},
		{"over a link", []member{{name: "a", kind: tar.TypeSymlink, target: outside}, {name: "a", content: "x"}}, ""},
		{"the top", []member{{name: ".", content: "x"}}, "top of the archive"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := unpacking(t, tarFile(t, test.members...))
			log, ok := built(t, r)
			if ok != (test.words == "") {
				t.Errorf("succeeded: %v, log: %s", ok, log)
			}
			if test.words != "" {
				mustFail(t, unpacking(t, tarFile(t, test.members...)), test.words)
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(outside)
			if err != nil || string(text) != "untouched" || len(entries) != 1 {
				t.Errorf("outside there is %q, %v, %v", text, err, entries)
			}
			info, err := os.Stat(outside)
			if err != nil || nlink(info) != 1 {
				t.Errorf("the file outside has other names: %v", err)
			}
		})
	}
}

func FuzzUnpackTar(f *testing.F) {
	f.Add(tarFile(f, channel[1:]...))
	f.Add([]byte("BZh9"))
	f.Add([]byte("\xfd7zXZ\x00"))
	f.Add([]byte("\x28\xb5\x2f\xfd"))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, content []byte) {
		r := unpacking(t, content)
		beside := filepath.Dir(r.Outputs["out"])
		built(t, r)
		entries, err := os.ReadDir(beside)
		if err == nil && len(entries) > 1 {
			t.Errorf("there is something beside the output: %v", entries)
		}
	})
}
