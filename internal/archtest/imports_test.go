package archtest

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// layers are the packages of the product. A package imports only those of the
// rows above its own.
var layers = [][]string{
	// Layer 0: no word of the domain, or one format of bytes.
	{"nix/base32", "nix/jsonvalue", "wire", "internal/keylock", "internal/unwind", "internal/ctxlog", "internal/bufpipe", "internal/dirfd", "internal/enclave", "internal/spool", "internal/until"},
	{"nix/refscan", "internal/rmtree"},
	{"nix/nar"},
	// Layer 1: the vocabulary, and its forms as text; system calls as data.
	{"nix", "sandbox/launcher", "sandbox/cgroup"},
	{"sandbox/program"},
	{"nix/aterm", "nix/narinfo", "nix/sign", "nix/conf", "nix/githash", "nix/logline", "nix/narlist", "nix/netrc"},
	{"nix/drvjson", "nix/drvopts"},
	// Layer 2: contracts.
	{"store", "wire/worker", "mountns", "daemon/socket"},
	{"wire/serve", "store/export", "store/rewrite"},
	// Layer 3: what keeps, what isolates, what talks.
	{"store/lookups", "store/sigv4"},
	{"store/local", "store/binarycache", "store/remote", "sandbox"},
	{"store/gc", "store/cacheserver", "daemon", "executor/substitute"},
	// Layers 4 to 6: what builds.
	{"service", "recursive", "executor/outputs", "executor/builtin", "executor/compare", "executor/hook", "progress", "tracing"},
	{"executor/build"},
	{"executor", "api/kiln/v1"},
	{"rpc"},
	{"engine"},
	// Layer 7: the program.
	{"cmd/kiln"},
}

// forTests are packages that only tests, and each other, may import.
var forTests = []string{"internal/docs", "internal/testenv", "store/storetest"}

// programs are for developers. Nobody imports them.
var programs = []string{"bench", "examples/scheduler", "interop", "internal/archtest", "internal/broken", "internal/container", "internal/screenshot", "internal/suite"}

// A ban keeps packages from importing others.
type ban struct {
	who     string   // packages that may not, as a pattern: "a/..." is a and all below
	except  []string // those of them that may, as patterns
	what    []string // patterns, relative to the module if they begin with "./"
	through bool     // nor may what they import
	why     string
}

var bans = []ban{
	{
		who: "mountns/...", what: []string{"./nix/...", "./store/..."}, through: true,
		why: "mountns knows the kernel and nothing else: mechanism without meaning",
	},
	{
		who: "sandbox/...", what: []string{"./nix/...", "./store/..."}, through: true,
		why: "a sandbox runs a program on files; that they are a derivation's is for its caller to know",
	},
	{
		who: "nix/...", what: []string{"./store/...", "net", "net/http/...", "os/exec"},
		why: "nix and its forms are a vocabulary: they start nothing and connect to nothing",
	},
	{
		who: "nix", what: []string{"os", "io/fs", "path/filepath"},
		why: "the words of the vocabulary do no I/O",
	},
	{
		who: "recursive/...", what: []string{"./executor/..."}, through: true,
		why: "it is handed a nix.Builder; which one is not its business, and the executor imports it",
	},
	{
		who: "daemon/...", what: []string{"./executor/...", "./store/local/..."}, through: true,
		why: "it is handed a store and a nix.Builder; which ones is not its business",
	},
	{
		who: "...", except: []string{"sandbox", "sandbox/cgroup"},
		what: []string{"github.com/opencontainers/runc/...", "github.com/opencontainers/cgroups/..."},
		why:  "containers are sandbox's chapter; others say in its Spec what they want",
	},
	{
		who: "...", except: []string{"store/local", "store/lookups"},
		what: []string{"zombiezen.com/go/sqlite/...", "modernc.org/...", "database/sql"},
		why:  "only store/local and store/lookups know that there is a database",
	},
	{
		who: "...", except: []string{"api/...", "rpc/...", "engine/...", "cmd/kiln", "examples/..."},
		what: []string{"google.golang.org/grpc/...", "google.golang.org/protobuf/..."},
		why:  "gRPC is one way in among several; what builds does not know of it",
	},
	{
		who: "...", except: []string{"cmd/kiln", "bench", "examples/...", "internal/broken", "internal/container", "internal/suite", "internal/docs"},
		what: []string{"flag", "github.com/spf13/..."},
		why:  "only a program's main package reads its command line (internal/docs writes down which there is)",
	},
	{
		who: "...", except: []string{"cmd/kiln", "bench", "examples/...", "internal/broken", "internal/container", "internal/screenshot", "internal/suite", "internal/enclave"},
		what: []string{"os/signal"},
		why:  "only a program's main package handles signals; others see a context that ends (internal/enclave stands in for its child, and passes them on)",
	},
	{
		who: "...", except: []string{"internal/testenv", "store/storetest"},
		what: []string{"testing", "testing/..."},
		why:  "it has no place in a program that people run",
	},
	{
		who: "...", what: []string{"C"},
		why: "the product is one static binary that every machine can build",
	},
}

// frugal packages may import only what stands here.
var frugal = []struct {
	who  string
	only []string
	why  string
}{
	{
		who: "sandbox/launcher", only: []string{"runtime", "syscall", "unsafe"},
		why: "its init has to run before that of anything large: Go initialises what a package imports before it",
	},
}

func TestFrugal(t *testing.T) {
	packages := load(t)
	for _, f := range frugal {
		if packages[f.who] == nil {
			t.Errorf("there is no package %s", f.who)
			continue
		}
		for _, i := range packages[f.who].imports() {
			if !slices.Contains(f.only, i) {
				t.Errorf("%s imports %s: %s", f.who, i, f.why)
			}
		}
	}
}

// matches tells whether a pattern covers a path: "..." stands for everything,
// "a/..." for a and what is below it.
func matches(pattern, path string) bool {
	if pattern == "..." {
		return true
	}
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == dir || strings.HasPrefix(path, dir+"/")
	}
	return path == pattern
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

// bannedPath is an import path as bans name it.
func bannedPath(path string) string {
	if rel, ok := local(path); ok {
		return "./" + rel
	}
	return path
}

func TestLayers(t *testing.T) {
	packages := load(t)
	row := map[string]int{}
	for i, names := range layers {
		for _, name := range names {
			row[name] = i
		}
	}
	for _, path := range slices.Sorted(maps.Keys(packages)) {
		mine, product := row[path]
		support := slices.Contains(forTests, path) || slices.Contains(programs, path)
		if !product && !support {
			t.Errorf("%s is in no layer: enter it in the table in %s", path, "internal/archtest/imports_test.go")
			continue
		}
		for _, imported := range packages[path].imports() {
			other, ok := local(imported)
			if !ok {
				continue
			}
			theirs, known := row[other]
			switch {
			case slices.Contains(programs, other):
				t.Errorf("%s imports %s, which is a program", path, other)
			case slices.Contains(forTests, other) && !support:
				t.Errorf("%s imports %s, which is for tests", path, other)
			case product && known && theirs >= mine:
				t.Errorf("%s imports %s: imports go down only, and that is not below it", path, other)
			}
		}
	}
}

func TestBans(t *testing.T) {
	packages := load(t)
	for _, b := range bans {
		for _, path := range slices.Sorted(maps.Keys(packages)) {
			if !matches(b.who, path) || matchesAny(b.except, path) {
				continue
			}
			for _, chain := range imported(packages, path, b.through) {
				last := chain[len(chain)-1]
				if matchesAny(b.what, bannedPath(last)) {
					t.Errorf("%s imports %s: %s", path, strings.Join(chain, ", which imports "), b.why)
				}
			}
		}
	}
}

// imported lists what a package imports, each with the way to it; with through
// also what packages of the module import for it.
func imported(packages map[string]*pkg, path string, through bool) [][]string {
	var chains [][]string
	seen := map[string]bool{}
	var visit func(path string, way []string)
	visit = func(path string, way []string) {
		p := packages[path]
		if p == nil {
			return
		}
		for _, i := range p.imports() {
			if seen[i] {
				continue
			}
			seen[i] = true
			chain := append(slices.Clone(way), i)
			chains = append(chains, chain)
			if other, ok := local(i); ok && through {
				visit(other, chain)
			}
		}
	}
	visit(path, nil)
	return chains
}

// TestBansBite proves that the rules see what they forbid.
func TestBansBite(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"...", "anything", true},
		{"sandbox/...", "sandbox", true},
		{"sandbox/...", "sandbox/program", true},
		{"sandbox/...", "sandboxes", false},
		{"nix", "nix/nar", false},
		{"./nix/...", bannedPath(module + "/nix/nar"), true},
		{"./nix/...", bannedPath("example.org/nix"), false},
	} {
		if got := matches(c.pattern, c.path); got != c.want {
			t.Errorf("matches(%q, %q) is %v", c.pattern, c.path, got)
		}
	}
	tree := map[string]*pkg{
		"a": {path: "a", files: []file{{imports: []string{"os", module + "/b"}}, {test: true, imports: []string{"flag"}}}},
		"b": {path: "b", files: []file{{imports: []string{"C"}}}},
	}
	for through, want := range map[bool][][]string{
		false: {{module + "/b"}, {"os"}},
		true:  {{module + "/b"}, {module + "/b", "C"}, {"os"}},
	} {
		if d := cmp.Diff(want, imported(tree, "a", through)); d != "" {
			t.Errorf("imports, through others %v (-want +got):\n%s", through, d)
		}
	}
}
