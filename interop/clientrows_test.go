//go:build linux

package interop

// clientGroups are the rows of TestClients. Each group has a store of its own, and its
// rows go on from what those before them left.
var clientGroups = []struct {
	name string
	kind worldKind
	rows []clientRow
}{
	{name: "builds", rows: buildRows},
	{name: "objects", rows: objectRows},
	{name: "garbage", rows: garbageRows},
	{name: "far", kind: worldKind{far: true}, rows: farRows},
	{name: "strangers", kind: worldKind{strangers: true}, rows: strangerRows},
	{name: "profiles", kind: worldKind{placed: true}, rows: profileRows},
}

var buildRows = []clientRow{
	{
		name: "nix store ping", often: true,
		script: `nix store ping 2>&1 | sed 's/^Version: [0-9.]*$/Version: of the daemon/'`,
		want:   "daemon-socket/socket",
	},
	{
		name: "nix store info --json", since: "2.19",
		script: `nix store info --json | sed 's/"version":"[^"]*"/"version":"of the daemon"/'`,
		want:   `"trusted":`,
	},
	{
		name: "nix-instantiate", often: true,
		script: `drv=$(nix-instantiate clients.nix -A hello); keep drv; echo $drv; cat $S$drv`,
		want:   "Derive(",
	},
	{
		name: "nix-build", often: true,
		script: `out=$(nix-build clients.nix -A hello -o result 2>said); keep out; echo $out; cat $S$out
			grep -E "^(building|first|log)|will be built" said; readlink result; readlink $S/nix/var/nix/gcroots/auto/*`,
		want: "hello dep /nix/store/",
	},
	{
		name:   "nix-build of an output",
		script: `doc=$(nix-build clients.nix -A hello.doc -o result); keep doc; echo $doc; cat $S$doc/text; ls $S$doc; readlink result-doc`,
		want:   "doc of hello /nix/store/",
	},
	{
		name:   "nix-store -r",
		script: `nix-store -r $drv --add-root rooted --indirect | sort; readlink rooted rooted-doc; nix-store -r $out`,
		want:   "-hello-doc",
	},
	{
		name:   "nix-store -r --dry-run",
		script: `nix-store -r --dry-run $(nix-instantiate clients.nix -A top) 2>&1; nix-store -r --dry-run $drv 2>&1`,
		want:   "-top.drv",
	},
	{
		name: "nix-build that fails",
		script: `for what in fails needs nothing; do
			nix-build clients.nix -A $what --no-out-link 2>said && echo built || echo exit $?; grep -oE "it fails|exit code 3|makes no output|failed to produce output path" said | sort -u; done`,
		want: "exit code 3",
	},
	{
		name: "nix-build -k",
		script: `nix-build -k clients.nix -A several --no-out-link 2>said && echo built || echo exit $?
			nix-store --check-validity $(nix-build clients.nix -A works --no-out-link 2>said); cat said; echo kept going`,
		want: "kept going",
	},
	{
		name:   "nix-build --timeout",
		script: `nix-build --timeout 1 clients.nix -A slow --no-out-link 2>said && echo built || echo exit $?; grep -o "timed out after 1 seconds" said`,
		want:   "timed out after 1 seconds",
	},
	{
		name:   "nix-build of a wrong hash",
		script: `nix-build clients.nix -A wrong --no-out-link 2>said && echo built || echo exit $?; grep -oE "(specified|got): .*" said | tr -s " "`,
		want:   "specified: sha256-",
	},
	{
		name:   "nix-build of a right hash",
		script: `cat $S$(nix-build clients.nix -A fixed --no-out-link)`,
		want:   "abc",
	},
	{
		name: "nix-build --check",
		script: `nix-build clients.nix -A hello --check --no-out-link 2>said; grep -E "^checking outputs" said || cat said
			nix-build clients.nix -A unsteady --no-out-link 2>said >/dev/null
			nix-build clients.nix -A unsteady --check --no-out-link 2>said && echo same || echo exit $?; grep -o "may not be deterministic" said | head -n 1`,
		want: "may not be deterministic",
	},
	{
		name:   "nix-build of files and trees",
		script: `cat $S$(nix-build clients.nix -A file --no-out-link) $S$(nix-build clients.nix -A tree --no-out-link)`,
		want:   "text in a file",
	},
	{
		name:   "nix-build with structured attributes",
		script: `nix-build clients.nix -A structured --no-out-link; for o in $(nix-build clients.nix -A structured --no-out-link); do cat $S$o; done`,
		want:   "1 two",
	},
	{
		name:   "an import from a derivation",
		script: `nix-instantiate --eval -E 'builtins.readFile (import ./clients.nix).dep'`,
		want:   `"dep\n"`,
	},
	{
		name: "nix-store -q --references", often: true,
		script: `nix-store -q --references $out $drv`,
		want:   "-dep",
	},
	{
		name: "nix-store -q --referrers, --referrers-closure", often: true,
		script: `dep=$(nix-store -q --references $out); keep dep; nix-store -q --referrers $dep $out; nix-store -q --referrers-closure $dep | sort`,
		want:   "-hello",
	},
	{
		name:   "nix-store -q --deriver",
		script: `nix-store -q --deriver $out $dep $drv`,
		want:   "-hello.drv",
	},
	{
		name: "nix-store -q --valid-derivers", since: "2.15",
		script: `nix-store -q --valid-derivers $out`,
		want:   "-hello.drv",
	},
	{
		name:   "nix-store -q --outputs",
		script: `nix-store -q --outputs $drv | sort`,
		want:   "-hello-doc",
	},
	{
		name:   "nix-store -qR",
		script: `nix-store -qR $out $doc; nix-store -qR --include-outputs $drv | sort; nix-store -qR --use-output $drv | sort`,
		want:   "-hello",
	},
	{
		name:   "nix-store -q --hash, --size",
		script: `nix-store -q --hash $out $drv; nix-store -q --size $out $doc`,
		want:   "sha256:",
	},
	{
		name:   "nix-store -q --tree, --graph, --graphml",
		script: `nix-store -q --tree $drv; nix-store -q --graph $drv | sort; nix-store -q --graphml $drv | sort`,
		want:   "-hello.drv",
	},
	{
		name:   "nix-store -q --binding, --print-env",
		script: `nix-store -q --binding id $drv; nix-store --print-env $drv`,
		want:   "export dep",
	},
	{
		name: "nix-store -q --roots", often: true,
		script: `nix-store -q --roots $out | grep "$W" | sort; nix-store -q --roots $dep | grep "$W" | sort`,
		want:   "-hello",
	},
	{
		name:   "nix-store --check-validity",
		script: `nix-store --check-validity $out && echo valid; nix-store --check-validity --print-invalid $out /nix/store/00000000000000000000000000000000-none; nix-store --check-validity $out /nix/store/00000000000000000000000000000000-none 2>&1 || echo exit $?`,
		want:   "none' is not valid",
	},
	{
		name: "nix-store --read-log", often: true,
		script: `nix-store --read-log $drv; nix-store -l $out; nix-store -l $dep`,
		want:   "first line of dep",
	},
	{
		name:   "nix log",
		script: `nix log $drv; nix log $out; nix log -f clients.nix fails; nix log /nix/store/00000000000000000000000000000000-none 2>&1 || echo exit $?`,
		want:   "it fails",
	},
	{
		name: "nix build",
		script: `nix build -f clients.nix hello --json --no-link >json; ` + withoutTimes + ` json; nix build -f clients.nix hello -o built; cat built 2>/dev/null || readlink built
			nix build -L -f clients.nix top --no-link 2>said; grep "> building top" said; cat $S$(nix-store -q --outputs $(nix-instantiate clients.nix -A top))`,
		want: "top> building top",
	},
	{
		name: "nix build of a derivation", until: "2.15",
		script: `nix build $drv --json --no-link`,
		want:   "-hello",
	},
	{
		name: "nix build of all outputs", since: "2.15",
		script: `nix build "$drv^*" --json --no-link >json; ` + withoutTimes + ` json; nix build --print-out-paths --no-link "$drv^doc" $dep`,
		want:   "-hello-doc",
	},
	{
		name: "nix build that fails",
		script: `nix build -f clients.nix fails --no-link 2>said && echo built || echo exit $?; grep -oE "it fails|exit code 3" said | sort -u
			nix build -f clients.nix needs --no-link 2>said && echo built || echo exit $?; grep -oE "exit code 3|[0-9]+ dependenc[a-z ]+ failed" said | sort -u
			nix build --keep-going -f clients.nix several --no-link 2>said && echo built || echo exit $?`,
		want: "exit code 3",
	},
	{
		name: "nix build --rebuild",
		script: `nix build --rebuild -f clients.nix hello --no-link && echo same
			nix build --rebuild -f clients.nix unsteady --no-link 2>said && echo same || echo exit $?; grep -o "may not be deterministic" said | head -n 1`,
		want: "may not be deterministic",
	},
	{
		name:   "nix build --dry-run",
		script: `nix build --dry-run -f clients.nix tool 2>&1; nix build --dry-run --json -f clients.nix tool 2>/dev/null`,
		want:   "-tool-1.0.drv",
	},
	{
		name: "content-addressed derivations",
		script: `on=$(nix-build clients.nix -A onFloating --no-out-link 2>said); echo $on; cat $S$on; cat $S$(nix-store -q --references $on)
			nix-store -q --deriver $on; nix build -f clients.nix onFloating --json --no-link >json; ` + withoutTimes + ` json`,
		want: "on /nix/store/",
	},
	{
		name:   "nix realisation info",
		script: `nix realisation info --json -f clients.nix floating onFloating`,
		want:   "-floating",
	},
	{
		name:   "nix path-info",
		script: `nix path-info $out; nix path-info -r $out; nix path-info -shS $out; nix path-info --all | sort`,
		want:   "-hello.drv",
	},
	{
		name: "nix path-info --json", often: true,
		script: `nix path-info --json -rsS $out $drv >json; ` + withoutTimes + ` json; nix path-info --json /nix/store/00000000000000000000000000000000-none 2>&1 || echo exit $?`,
		want:   `"narHash"`,
	},
	{
		name:   "nix show-derivation",
		script: `nix show-derivation $drv 2>/dev/null; nix show-derivation -r $out 2>/dev/null`,
		want:   `"builder"`,
	},
	{
		name:   "nix why-depends",
		script: `nix why-depends $out $dep; nix why-depends --all --precise $doc $dep`,
		want:   "-dep",
	},
	{
		name:   "nix store ls, nix store cat",
		script: `nix store ls -lR $doc; nix store ls --json -R $doc; nix store cat $doc/text; nix store cat $doc/none 2>&1 || echo exit $?`,
		want:   "doc of hello",
	},
	{
		name: "nix-shell",
		script: `nix-shell clients.nix -A shell --run 'echo $marker; echo $dep; echo $hooked; echo $IN_NIX_SHELL'
			nix-shell --pure clients.nix -A shell --run 'echo $marker ${HOME-no home} $IN_NIX_SHELL'
			nix-shell clients.nix -A hello --run 'cat $S$dep; exit 7' || echo exit $?`,
		want: "value of marker",
	},
	{
		name:   "nix develop",
		script: `nix develop ` + plainFeatures + ` -f clients.nix shell -c bash -c 'echo $marker; echo $dep; echo $IN_NIX_SHELL'; nix print-dev-env ` + plainFeatures + ` -f clients.nix shell | grep -E "^(declare -x )?(marker|dep|hooked|shellHook)="`,
		want:   "value of marker",
	},
	{
		name: "flakes from a path", often: true,
		script: `nix build path:$W/flake -o flaky; readlink flaky; cat $S$(readlink flaky)
			nix build path:$W/flake#dep --json --no-link >json; ` + withoutTimes + ` json; nix eval path:$W/flake#answer; nix eval --raw path:$W/flake#hello.doc`,
		want: "hello dep /nix/store/",
	},
	{
		name:   "nix flake metadata, show",
		script: `nix flake metadata --json path:$W/flake; nix flake show --json path:$W/flake; nix flake show path:$W/flake`,
		want:   "A flake without inputs",
	},
	{
		name:   "nix develop of a flake",
		script: `cp -R flake flake2; cd flake2; nix develop ` + plainFeatures + ` path:. -c bash -c 'echo $marker $hooked'`,
		want:   "value of marker",
	},
	{
		name:   "nix copy to a store and back",
		script: `nix copy --no-check-sigs --to "$W/other" $out; cat $W/other$out; nix path-info --store "$W/other" -r $out; nix copy --to "$W/other" --derivation $drv; nix path-info --store "$W/other" --all | sort`,
		want:   "-hello.drv",
	},
}

// plainFeatures are those without content-addressed derivations: with them, nix develop
// of Nix 2.8 makes derivations that newer daemons refuse.
const plainFeatures = `--option experimental-features "nix-command flakes"`

// withoutTimes filters JSON.
const withoutTimes = `sed -E 's/"(startTime|stopTime|registrationTime|cpuUser|cpuSystem)": ?[0-9.]+,?//g; s/,}/}/g'`

var objectRows = []clientRow{
	{
		name: "nix-store --add", often: true,
		script: `tree=$(nix-store --add tree); keep tree; echo $tree; ls $S$tree; cat $S$tree/file | wc -c; readlink $S$tree/link; stat -c '%a %Y %n' $S$tree/tool | sed "s|$S||"
			nix-store --add file; nix-store --add missing 2>/dev/null || echo exit $?`,
		want: "no/where",
	},
	{
		name: "nix-store --add-fixed",
		script: `nix-store --add-fixed sha256 file; nix-store --add-fixed sha1 file; nix-store --add-fixed md5 file; nix-store --add-fixed sha512 --recursive tree
			nix-store --add-fixed sha256 --recursive tree; nix-store --print-fixed-path sha256 $(nix-hash --flat --type sha256 --base32 file) file`,
		want: "-tree",
	},
	{
		name:   "nix store add-file, add-path",
		script: `nix store add-file file; nix store add-file -n other file; nix store add-path tree; nix store add-path -n second tree`,
		want:   "-second",
	},
	{
		name: "nix store add", since: "2.24",
		script: `nix store add --mode flat --hash-algo sha1 file; nix store add --mode nar --hash-algo sha512 tree; nix store add --mode text file`,
		want:   "-tree",
	},
	{
		name:   "nix-store --dump, --restore",
		script: `nix-store --dump tree >archive; nix-store --dump $S$tree | cmp - archive && sha256sum archive; nix-store --restore restored <archive; nix-store --add restored; nix store dump-path $tree | cmp - archive && echo same`,
		want:   "same",
	},
	{
		name:   "nix nar",
		script: `nix store dump-path $tree >archive; nix nar ls -R archive / 2>&1; nix nar cat archive /tool 2>&1`,
		want:   "#!/bin/sh",
	},
	{
		name: "nix-store --export", often: true,
		script: `nix-build clients.nix -A hello -o result >/dev/null; out=$(readlink result); doc=$(nix-build clients.nix -A hello.doc -o result); drv=$(nix-store -q --deriver $out); dep=$(nix-store -q --references $out); keep out doc drv dep
			nix-store --export $(nix-store -qR $out $doc) >exported; sha256sum <exported; nix-store --export /nix/store/00000000000000000000000000000000-none 2>&1 >/dev/null | grep -o "is not valid" || echo exit $?`,
		want: "is not valid",
	},
	{
		name:   "nix-store --delete of what is alive",
		script: `nix-store --delete $out 2>said && echo deleted || echo exit $?; grep -o "since it is still alive" said; nix-store --delete $dep 2>said && echo deleted || echo exit $?; cat $S$out`,
		want:   "exit 1",
	},
	{
		name: "nix-store --delete", often: true,
		script: `rm result*; nix-store --delete $out $doc 2>/dev/null; ls -d $S$out 2>/dev/null || echo gone; nix-store --check-validity --print-invalid $out $doc $dep; nix-store -q --referrers $dep`,
		want:   "gone",
	},
	{
		name: "nix-store --import", often: true,
		script: `nix-store --import <exported | sort; cat $S$out; nix-store -q --references $doc; nix-store -q --deriver $out
			head -c 300 exported | nix-store --import 2>/dev/null || echo exit $?; nix-store --delete $doc >/dev/null 2>&1; nix-store --import <exported | sort; cat $S$doc/text`,
		want: "hello dep ",
	},
	{
		name: "nix copy to a cache",
		script: `nix copy --to "file://$W/cache?compression=none" $out $doc; cat $W/cache/*.narinfo | grep -E "^(StorePath|NarHash|References|Deriver)" | sort
			nix path-info --store "file://$W/cache" -r $out`,
		want: "StorePath: ",
	},
	{
		name: "nix copy from a cache",
		script: `nix-store --delete $out $doc >/dev/null 2>&1; nix copy --from "file://$W/cache" $out 2>said && echo copied || echo exit $?; grep -o "lacks a signature by a trusted key" said | head -n 1
			nix copy --no-check-sigs --from "file://$W/cache" $out; cat $S$out; nix path-info --json $out >json; ` + withoutTimes + ` json`,
		want: "lacks a ",
	},
	{
		name: "signatures",
		script: `nix store sign -k secret $dep; nix path-info --sigs $dep; nix copy --to "file://$W/signed" $dep; nix store sign -k secret --store "file://$W/signed" $dep
			nix-store --delete $out $dep >/dev/null 2>&1; nix-store --check-validity --print-invalid $dep
			nix copy --from "file://$W/signed" --option trusted-public-keys "$(cat public)" $dep; nix path-info --sigs $dep; cat $S$dep
			nix store verify --option trusted-public-keys "$(cat public)" $dep && echo verified; nix store verify $dep 2>&1 | grep -o "is untrusted" | head -n 1`,
		want: "is untrusted",
	},
	{
		name: "nix store copy-sigs", since: "2.4",
		script: `nix copy --no-check-sigs --from "file://$W/cache" $out; nix copy --to "file://$W/signed" $out; nix store sign -k secret --store "file://$W/signed" $out; nix store copy-sigs -s "file://$W/signed" $out; nix path-info --sigs $out`,
		want:   "clients-1:",
	},
	{
		name: "nix copy between stores",
		script: `nix copy --no-check-sigs --to "$W/other" $out; cat $W/other$out; nix-store --delete $out >/dev/null 2>&1; nix copy --no-check-sigs --from "$W/other" $out; cat $S$out
			nix copy --derivation --to "$W/other" $drv; nix path-info --store "$W/other" --all | sort`,
		want: "-hello.drv",
	},
	{
		name: "nix store copy-log", since: "2.6",
		script: `nix store copy-log --to "file://$W/cache" $drv; chmod -R u+w $S/nix/var/log; rm -r $S/nix/var/log/nix/drvs; nix log $drv 2>/dev/null || echo none
			nix store copy-log --from "file://$W/cache" $drv; nix log $drv`,
		want: "log of hello",
	},
	{
		name:   "nix store make-content-addressed",
		script: `nix store make-content-addressed --json $out; nix path-info --all | grep -c hello`,
		want:   "rewrites",
	},
	{
		name: "nix-store --optimise",
		script: `nix-store --add restored/file >/dev/null; nix-store --optimise 2>/dev/null; stat -c '%h' $S$tree/file; a=$(stat -c %i $S$tree/file); b=$(stat -c %i $S$(nix-store --add restored/file)); [ $a = $b ] && echo linked
			nix store optimise; ls $S/nix/store/.links | wc -l`,
		want: "linked",
	},
	{
		name:   "nix-store --verify",
		script: `nix-store --verify --check-contents 2>/dev/null && echo whole; nix-store --verify-path $out $tree && echo verified; nix store verify --all --no-trust && echo verified`,
		want:   "verified",
	},
	{
		name: "nix-store --verify of what is damaged", often: true,
		script: `damage $out; nix-store --verify --check-contents 2>said && echo whole || echo exit $?; grep -o "hello' was modified" said
			nix-store --verify-path $out 2>said && echo whole || echo exit $?; grep -o "hello' was modified" said; nix store verify --no-trust $out 2>said && echo whole || echo exit $?; grep -o "hello' was modified" said`,
		want: "was modified",
	},
	{
		name: "nix-store --verify --repair", often: true,
		script: `nix-store --verify --check-contents --repair 2>said && echo whole || echo exit $?; cat $S$out; nix-store --verify-path $out && echo verified
			nix-store --repair-path $dep 2>said || grep -o "not supported" said`,
		want: "hello dep ",
	},
	{
		name:   "nix-store -r --repair",
		script: `cp -p $S$out saved; damage $out; nix-store -r --repair $drv 2>/dev/null | sort; cat $S$out; cp -pf saved $S$out`,
		want:   "hello dep ",
		unlike: "Nix leaves an output as it is that was imported and not built; kiln repairs it",
	},
	{
		name: "nix store repair", since: "2.4",
		script: `nix store repair $dep 2>said || grep -o "not supported" said`,
		want:   "not supported",
	},
	{
		name:   "nix-store --verify of what is missing",
		script: `other=$(nix-store --add-fixed sha1 file); rm -f $S$other; nix-store --verify 2>said && echo whole || echo exit $?; grep -o "disappeared.*" said; nix-store --check-validity --print-invalid $other`,
		want:   "disappeared",
	},
	{
		name:   "nix-store --dump-db",
		script: `nix-store --dump-db | grep -v '^[0-9]*$' | sort | uniq -c`,
		want:   "-hello",
	},
}

var garbageRows = []clientRow{
	{
		name: "roots", often: true,
		script: `out=$(nix-build clients.nix -A hello -o result); nix-build clients.nix -A works -o works >/dev/null; works=$(readlink works); top=$(nix-build clients.nix -A top --no-out-link); keep out works top
			nix-store --gc --print-roots | grep "$W" | sort; ln -s $works $S/nix/var/nix/gcroots/direct; nix-store --gc --print-roots | grep -c direct`,
		want: "-hello",
	},
	{
		name:   "nix-store --gc --print-live, --print-dead",
		script: `nix-store --gc --print-live 2>/dev/null | sort; echo; nix-store --gc --print-dead 2>/dev/null | sort`,
		want:   "-top",
	},
	{
		name:   "nix-store --delete of what has referrers",
		script: `hello=$(nix-store -q --deriver $out); nix-store --delete $hello 2>said && echo deleted || echo exit $?; ls $S$hello | wc -l`,
		want:   "exit 1",
	},
	{
		name:   "nix store delete",
		script: `nix store delete $top 2>&1 | grep -o "1 store paths* deleted"; ls $S$top 2>/dev/null || echo gone; nix store delete $out 2>/dev/null || echo exit $?`,
		want:   "gone",
	},
	{
		name:   "nix-store --gc --max-freed",
		script: `for i in 1 2 3; do echo $i >one; nix-store --add one >/dev/null; done; nix-store --gc --max-freed 1 2>/dev/null | wc -l; nix-store --gc --max-freed 0 2>/dev/null | wc -l`,
		want:   "1",
	},
	{
		name: "nix-store --gc", often: true,
		script: `nix-store --gc 2>/dev/null | sort >deleted; grep -c -e one -e hello.drv deleted || true; nix path-info --all | sort; ls $S/nix/store; cat $S$out $S$works`,
		want:   "hello dep ",
	},
	{
		name:   "nix-collect-garbage",
		script: `rm result; nix-collect-garbage 2>/dev/null; nix path-info --all; ls $S/nix/store; ls $S/nix/var/nix/gcroots/auto | wc -l`,
		want:   "-works",
	},
	{
		name:   "nix store gc",
		script: `rm $S/nix/var/nix/gcroots/direct works; nix store gc 2>/dev/null; nix path-info --all; ls $S/nix/store | wc -l`,
		want:   "0",
	},
	{
		name:   "building anew",
		script: `cat $S$(nix-build clients.nix -A hello -o result)`,
		want:   "hello dep ",
	},
}
