package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/spf13/cobra"
)

const (
	files    = cobra.ShellCompDirectiveDefault
	nothing  = cobra.ShellCompDirectiveNoFileComp
	more     = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	suffixes = cobra.ShellCompDirectiveFilterFileExt
	dirs     = cobra.ShellCompDirectiveFilterDirs
)

// complete gives what a shell is told about a command line.
func complete(t *testing.T, words ...string) (list []string, directive cobra.ShellCompDirective) {
	t.Helper()
	root := rootCommand()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(new(bytes.Buffer))
	words = append([]string{cobra.ShellCompNoDescRequestCmd}, words...)
	if !completing(words) {
		t.Fatalf("%q is no question of a shell", words)
	}
	root.SetArgs(prepareCompletion(root, words))
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	list = strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	last := list[len(list)-1]
	for _, c := range strings.TrimPrefix(last, ":") {
		directive = directive*10 + cobra.ShellCompDirective(c-'0')
	}
	return list[:len(list)-1], directive
}

// unconfigured takes the settings of the machine away from a test.
func unconfigured(t *testing.T) {
	for _, name := range []string{"NIX_CONFIG", "NIX_REMOTE", "NIX_STORE_DIR", "NIX_STORE", "NIX_STATE_DIR", "NIX_LOG_DIR"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	t.Setenv("NIX_CONF_DIR", t.TempDir())
	t.Setenv("NIX_USER_CONF_FILES", "")
}

// storeWithDerivation is the root of a store in which a derivation lies, and the
// names of other things that stores have.
func storeWithDerivation(t *testing.T) (root string, drv nix.StorePath) {
	t.Helper()
	text, err := os.ReadFile("../../demo/x86_64-linux.json")
	if err != nil {
		t.Fatal(err)
	}
	d, err := parseJSONDerivation(nix.DefaultStoreDir, text)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []nix.OutputName{"dev", "doc"} {
		d.Outputs[name] = nix.DerivationOutput{Kind: nix.InputAddressed, Path: nix.StorePath(strings.Repeat("d", 32) + "-hello-" + string(name))}
	}
	printed, err := aterm.Marshal(nix.DefaultStoreDir, d)
	if err != nil {
		t.Fatal(err)
	}
	drv = nix.StorePath(strings.Repeat("a", 32) + "-hello.drv")
	root = t.TempDir()
	dir := filepath.Join(root, "nix/store")
	if err := os.MkdirAll(filepath.Join(dir, ".links"), 0o755); err != nil {
		t.Fatal(err)
	}
	out := strings.Repeat("b", 32) + "-hello"
	for name, text := range map[string][]byte{
		string(drv): printed, string(drv) + ".lock": nil, out: nil, out + ".check": nil, out + ".chroot": nil, strings.Repeat("c", 32) + "-x.drv": []byte("?"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root, drv
}

func TestCompleteStorePaths(t *testing.T) {
	unconfigured(t)
	root, drv := storeWithDerivation(t)
	file := filepath.Join(root, "nix/store", string(drv))
	hello := "/nix/store/" + string(drv)
	bad := "/nix/store/" + strings.Repeat("c", 32) + "-x.drv"
	out := "/nix/store/" + strings.Repeat("b", 32) + "-hello"
	for _, c := range []struct {
		words     string // after --store; the last is being typed
		want      []string
		directive cobra.ShellCompDirective
	}{
		{"build |", []string{"drv", "json"}, suffixes},
		{"build |/ni", []string{"drv", "json"}, suffixes},
		{"build |/nix/s", []string{"/nix/store/"}, more},
		{"build |/nix/store/", []string{hello, bad}, nothing},
		{"build -L x.drv --max-jobs 3 |/nix/store/aa", []string{hello}, nothing},
		{"build |/nix/store/ab", nil, nothing},
		{"build |" + hello + "^", []string{hello + "^*", hello + "^dev", hello + "^doc", hello + "^out"}, more},
		{"build |" + hello + "^d", []string{hello + "^dev", hello + "^doc"}, more},
		{"build |" + hello + "^out,d", []string{hello + "^out,dev", hello + "^out,doc"}, more},
		{"build |" + file + "^o", []string{file + "^out"}, more},
		{"build |../../demo/x86_64-linux.json^", []string{"../../demo/x86_64-linux.json^*", "../../demo/x86_64-linux.json^out"}, more},
		{"build |" + bad + "^", nil, more},
		{"build |-^", nil, nothing},
		{"build |/nix/store/nothing.drv^", nil, more},
		{"log |/nix/store/", []string{hello, out, bad}, nothing},
		{"log |./res", nil, files},
		{"derivation show |/nix/store/b", []string{out}, nothing},
		{"derivation add |", []string{"drv", "json"}, suffixes},
		{"store info |/nix/store/b", []string{out}, nothing},
		{"store add |", nil, files},
		{"store verify |", nil, nothing},
	} {
		flags, typed, _ := strings.Cut(c.words, "|")
		words := append(append(strings.Fields(flags), "--store", root), typed)
		got, directive := complete(t, words...)
		if diff := cmp.Diff(c.want, got, cmp.Comparer(sameList)); diff != "" || directive != c.directive {
			t.Errorf("%s: directive %d, want %d (-want +got)\n%s", c.words, directive, c.directive, diff)
		}
	}
}

func sameList(a, b []string) bool { return slices.Equal(a, b) }

func TestCompleteFlags(t *testing.T) {
	unconfigured(t)
	for _, c := range []struct {
		words     string
		want      []string
		directive cobra.ShellCompDirective
	}{
		{"completion |", []string{"bash", "zsh", "fish", "powershell"}, nothing},
		{"|bui", []string{"build"}, nothing},
		{"build --log-format |b", []string{"bar", "bar-with-logs"}, nothing},
		{"build |--log-format=t", []string{"tree"}, nothing},
		{"build --store |", nil, dirs},
		{"build -j |", []string{"auto"}, nothing},
		{"build --timeout |", nil, nothing},
		{"build --out-link |", nil, files},
		{"store add --mode |f", []string{"flat"}, nothing},
		// Settings.
		{"build |--user-n", []string{"--user-network", "--user-network-program"}, nothing},
		{"build --user-network |r", []string{"require"}, nothing},
		{"build --sandbox-fallback |--keep-go", []string{"--keep-going"}, nothing},
		{"build --extra-sandbox-paths /x |--cor", []string{"--cores"}, nothing},
		{"build |--extra-system", []string{"--extra-system-features"}, nothing},
		{"build --ssl-cert-file |", nil, files},
		{"build --option |user-network", []string{"user-network", "user-network-program"}, nothing},
		{"build --option user-network |", []string{"auto", "require", "off"}, nothing},
		{"build --option fallback |f", []string{"false"}, nothing},
		{"build --option netrc-file |/x", nil, files},
		{"build --option nonsense |", nil, files},
		{"build --option cores 3 |--dry", []string{"--dry-run"}, nothing},
	} {
		flags, typed, _ := strings.Cut(c.words, "|")
		got, directive := complete(t, append(strings.Fields(flags), typed)...)
		if diff := cmp.Diff(c.want, got, cmp.Comparer(sameList)); diff != "" || directive != c.directive {
			t.Errorf("%s: directive %d, want %d (-want +got)\n%s", c.words, directive, c.directive, diff)
		}
	}
	list, _ := complete(t, "build", "--")
	if !slices.Contains(list, "--dry-run") || slices.Contains(list, "--user-network") {
		t.Errorf("after -- there is %v", list)
	}
}

// TestHashAlgorithmsComplete holds the list of them against the parser.
func TestHashAlgorithmsComplete(t *testing.T) {
	list, _ := complete(t, "store", "add", "--hash-algo", "")
	if len(list) < 5 {
		t.Errorf("only %v", list)
	}
	for _, name := range list {
		if _, err := nix.ParseHashAlgorithm(name); err != nil {
			t.Error(err)
		}
	}
}
