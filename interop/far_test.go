//go:build linux

package interop

import (
	"fmt"
	"os"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// own is the root directory of the clients' own store in a world whose daemon is far.
func (w *world) own() string { return w.scene.Path("here") }

// answerSSH has a program be the nix-daemon that clients find by ssh, and tells scripts
// how to reach it: FAR is its store, STRANGE the same for whom it does not trust, and
// BUILDER and STRANGEBUILDER are the machine as the setting "builders" has it. The store
// is at $T.
func (w *world) answerSSH(program ...string) {
	w.t.Helper()
	sshd := testenv.StartSSHD(w.t, w.scene)
	env := []string{"NIX_REMOTE=local?root=" + w.root, "NIX_CONFIG=" + w.config() + "extra-experimental-features = daemon-trust-override\n"}
	sshd.Program(w.t, w.scene, "bin/nix-daemon", env, program...)
	strange := sshd.Program(w.t, w.scene, "strange-daemon", env, append(program, "--force-untrusted")...)
	if w.release.room != "" {
		outsideSSH(w.t, w.scene)
	}
	far := "ssh-ng://" + sshd.User + "@127.0.0.1"
	machine := func(uri string) string { return fmt.Sprintf("%s %s - 2 1 ca-derivations", uri, testenv.System()) }
	w.clients = append(w.clients,
		"T="+w.root, "FAR="+far, "STRANGE="+far+"?remote-program="+strange, "BUILDER="+machine(far), "STRANGEBUILDER="+machine(far+"?remote-program="+strange),
		"NIX_SSHOPTS=-i "+sshd.Key+" -p "+fmt.Sprint(sshd.Port)+" "+sshd.Options+" "+sshd.Shared,
		"PATH="+w.scene.Path("outside")+":"+w.scene.Path("bin")+":"+os.Getenv("PATH"))
}

// farRows are what clients do with another machine.
var farRows = []clientRow{
	{
		name:   "nix store ping --store ssh-ng://",
		script: `nix store ping --store $FAR 2>&1 | sed 's/^Version: [0-9.]*$/Version: of the daemon/'`,
		want:   "ssh-ng://",
	},
	{
		name: "nix build --store ssh-ng://", often: true,
		script: `nix build --store $FAR -L -f clients.nix hello --no-link 2>said; grep "log of" said
			out=$(nix eval --store $FAR --raw -f clients.nix hello.outPath); keep out; nix store cat --store $FAR $out; cat $T$out; nix path-info --store $FAR -r $out; ls $S/nix/store 2>/dev/null | wc -l`,
		want: "hello> log of hello",
	},
	{
		name:   "nix build --store ssh-ng:// --eval-store",
		script: `nix build --store $FAR --eval-store "local?root=$S" -f clients.nix top --no-link --json >json; ` + withoutTimes + ` json; ls $S/nix/store | grep -c drv; cat $T/nix/store/*-top`,
		want:   "-top",
	},
	{
		name: "nix build --store ssh-ng:// that fails",
		script: `nix build --store $FAR -f clients.nix fails --no-link 2>said && echo built || echo exit $?; grep -oE "it fails|exit code 3" said | sort -u
			nix build --store $FAR -f clients.nix wrong --no-link 2>said && echo built || echo exit $?; grep -oE "(specified|got): .*" said | tr -s " "`,
		want: "exit code 3",
	},
	{
		name:   "nix-build, nix-store --store ssh-ng://",
		script: `nix-build --store $FAR clients.nix -A works --no-out-link; nix-store --store $FAR -q --references $out; nix-store --store $FAR --add file; nix-store --store $FAR --verify --check-contents && echo whole`,
		want:   "whole",
	},
	{
		// Older ones look for the flake among their own files.
		name: "nix build --store ssh-ng:// of a flake", since: "2.34",
		script: `nix build --store $FAR path:$W/flake#hello --no-link --json >json; ` + withoutTimes + ` json`,
		want:   "-hello",
	},
	{
		name:   "nix copy by ssh-ng://",
		script: `nix copy --no-check-sigs --from $FAR $out; cat $S$out; f=$(nix-store --add tree); nix copy --to $FAR $f; ls $T$f; nix copy --no-check-sigs --from $FAR --to "$W/other" $out; cat "$W/other$out"`,
		want:   "hello dep ",
	},
	{
		name: "--builders ssh-ng://", often: true,
		script: `nix-build clients.nix -A structured -A file --no-out-link --max-jobs 0 --builders "$BUILDER" 2>said >built || cat said; grep -oE "building .* on '[^']*'" said; cat built
			for o in $(cat built); do cat $S$o; nix-store --query --deriver $o; cmp $S$o $T$o; done`,
		want: "1 two",
	},
	{
		name: "--builders ssh-ng:// of what depends on each other",
		script: `cp clients.nix deep.nix; sed -i 's/id = "/id = "deep-/' deep.nix; nix build -L -f deep.nix top --max-jobs 0 --builders "$BUILDER" -o top 2>said || cat said; grep "> " said | sort; cat $S$(readlink top); nix-store -qR $(readlink top)
			nix log $(nix-store -q --deriver $(readlink top)); nix path-info --json -r $(readlink top) >json; ` + withoutTimes + ` json`,
		want: "building top",
	},
	{
		name: "--builders ssh-ng:// of what fails",
		script: `for what in fails wrong; do nix-build clients.nix -A $what --no-out-link --max-jobs 0 --builders "$BUILDER" 2>said && echo built || echo exit $?; grep -oE "it fails|exit code 3|(specified|got): .*" said | tr -s " " | sort -u; done
			nix-build clients.nix -A slow --no-out-link --max-jobs 0 --timeout 1 --builders "$BUILDER" 2>said && echo built || echo exit $?; grep -oE "timed out" said | head -n 1`,
		want: "exit code 3",
	},
	{
		name:   "--builders ssh-ng:// of content-addressed derivations",
		script: `nix-build clients.nix -A onFloating --no-out-link --max-jobs 0 --builders "$BUILDER" 2>said >built || cat said; cat built; cat $S$(cat built); nix realisation info --json -f clients.nix floating onFloating`,
		want:   "on /nix/store/",
	},
	{
		name: "--builders ssh-ng:// where strangers may not build what they bring", since: "2.16",
		script: `nix-build clients.nix -A tree --no-out-link --max-jobs 0 --builders "$STRANGEBUILDER" 2>said >built || cat said; cat $S$(cat built); grep -c " on 'ssh-ng://" said`,
		want:   "tool",
	},
	{
		name: "strangers by ssh-ng://",
		script: `nix-store --store $FAR --delete $(nix-store --store $FAR -q --referrers-closure $out) >/dev/null 2>&1; ls $T$out 2>/dev/null || echo gone; nix copy --no-check-sigs --to $STRANGE $out 2>said && echo copied || echo exit $?; grep -o "lacks a signature by a trusted key" said || cat said
			nix build --store $STRANGE -f deep.nix dep --no-link 2>/dev/null && echo built`,
		want: "lacks a signature by a trusted key",
	},
}
