//go:build linux

package interop

// The rows of TestClients that are about who somebody is, and about what is his.

var profileRows = []clientRow{
	{
		name: "nix-env -i", often: true,
		script: `nix-env -p profile -f clients.nix -iA tool other 2>said || cat said; grep "^installing" said; nix-env -p profile -q --installed --out-path; profile/bin/tool; cat profile/share/other; readlink profile; ls -l profile/bin | tail -n 1 | sed 's/.*-> //'`,
		want:   "tool 1.0",
	},
	{
		name:   "nix-env -q",
		script: `nix-env -p profile -f clients.nix -qa | sort; nix-env -p profile -q --json | sed 's/ *$//'; nix-env -f clients.nix -qaP tool`,
		want:   "tool-2.0",
	},
	{
		name: "nix-env -u", often: true,
		script: `nix-env -p profile -f clients.nix -u tool 2>&1 | grep "^upgrading"; profile/bin/tool; nix-env -p profile -q`,
		want:   "tool 2.0",
	},
	{
		name: "nix-env --rollback", often: true,
		script: `nix-env -p profile --rollback 2>&1 | grep "^switching"; profile/bin/tool; nix-env -p profile -q`,
		want:   "tool 1.0",
	},
	{
		name: "nix-env generations",
		script: `nix-env -p profile -e other 2>/dev/null; nix-env -p profile -q; nix-env -p profile --list-generations | sed -E 's/[0-9]{4}-.*[0-9]{2}:[0-9]{2}/then/'; nix-env -p profile --switch-generation 2 2>/dev/null; nix-env -p profile -q
			nix-env -p profile --delete-generations 1 2>&1 | grep -c removing; ls -d profile-*`,
		want: "other-1.0",
	},
	{
		name:   "nix-env --set",
		script: `nix-env -p set -f clients.nix --set -A newTool 2>/dev/null || nix-env -p set --set $(nix-build clients.nix -A newTool --no-out-link); set/bin/tool; readlink set`,
		want:   "tool 2.0",
	},
	{
		name:   "nix profile install",
		script: `nix profile install --profile "$W/new" path:$W/flake#tool 2>/dev/null; new/bin/tool; nix profile list --profile "$W/new"; nix profile install --profile "$W/new" $(nix-build clients.nix -A other --no-out-link); cat new/share/other; readlink new`,
		want:   "tool 1.0",
	},
	{
		name:   "nix profile remove, rollback, history",
		script: `nix profile remove --profile "$W/new" $(nix-build clients.nix -A other --no-out-link); ls new/share 2>/dev/null || echo removed; nix profile rollback --profile "$W/new" 2>said || cat said; cat new/share/other; nix profile history --profile "$W/new" | sed -E 's/\([0-9-]+\)/(then)/'`,
		want:   "removed",
	},
	{
		name:   "nix profile upgrade, wipe-history",
		script: `sed -i 's/inherit (all) hello dep tool shell/tool = all.newTool/' flake/flake.nix; for name in '.*tool' tool; do nix profile upgrade --profile "$W/new" $name 2>/dev/null || true; done; new/bin/tool; nix profile wipe-history --profile "$W/new" 2>/dev/null; ls -d new-*`,
		want:   "tool 2.0",
	},
	{
		name:   "nix run, nix shell",
		script: `nix run path:$W/flake; nix shell -f clients.nix tool -c tool; nix shell -f clients.nix newTool -c tool`,
		want:   "tool 2.0",
	},
	{
		name:   "profiles are roots",
		script: `nix-store --gc 2>/dev/null >deleted; new/bin/tool; nix-env -p profile -q; nix-env -p profile --rollback 2>/dev/null || echo no earlier one; nix-store -q --roots $(readlink -f profile) | grep "$W" | sed "s/.* -> //"`,
		want:   "-user-environment",
	},
}

// strangerRows are what clients do that are not trusted.
var strangerRows = []clientRow{
	{
		name: "restricted options", often: true,
		script: `file=$(nix-store --add file); keep file
			nix-store --option sandbox false --option require-sigs false --option sandbox-fallback true --option extra-sandbox-paths /etc --option post-build-hook /bin/sh -q --hash $file 2>&1`,
		want: "warning: ignoring the client-specified setting 'sandbox', because it is a restricted setting and you are not a trusted user",
	},
	{
		name: "harmless options", often: true,
		script: `nix-store --option timeout 7 --option max-silent-time 7 --option build-poll-interval 7 --option connect-timeout 7 --option builders "" --option cores 3 \
			--option max-jobs 2 --option keep-going true --option keep-failed true --option fallback true --option substitute false --option substituters https://known.example -q --size $file 2>&1`,
		want: "128",
	},
	{
		name: "options that make no difference", often: true,
		script: `nix-store --option sandbox true --option require-sigs true --option log-lines 25 --option trusted-public-keys "$(cat public)" -q --size $file 2>&1`,
		want:   "128",
		unlike: "Nix warns of what it has itself; kiln only of what it ignores",
	},
	{
		name: "an unknown substituter", often: true,
		script: `nix-store --option substituters "https://known.example https://unknown.example" -q --size $file 2>&1`,
		want:   "warning: ignoring untrusted substituter 'https://unknown.example', you are not a trusted user.",
	},
	{
		name: "strangers build", often: true,
		script: `out=$(nix-build clients.nix -A hello -o result 2>/dev/null); dep=$(nix-store -q --references $out); keep out dep; cat $S$out; nix-build clients.nix -A dep --check --no-out-link 2>/dev/null`,
		want:   "hello dep ",
	},
	{
		name: "strangers repair", often: true,
		script: `nix-store --verify --repair 2>said || echo exit $?; grep -o "you are not privileged to repair paths" said
			nix-build clients.nix -A dep --no-out-link --repair 2>said || echo exit $?; grep -o "repairing is not allowed because you are not in 'trusted-users'" said; nix-store --verify --check-contents 2>/dev/null && echo whole`,
		want: "repairing is not allowed",
	},
	{
		name: "strangers import", often: true,
		script: `nix-store --export $dep >exported; nix copy --to "file://$W/cache?compression=none" $dep; rm result; nix-store --delete $(nix-store -q --outputs $(nix-store -q --deriver $out)) $dep >/dev/null 2>&1
			nix-store --import <exported 2>said || echo exit $?; grep -o "lacks a signature by a trusted key" said; nix-store --check-validity --print-invalid $dep; ls $S$dep 2>/dev/null || echo nothing`,
		want: "lacks a signature by a trusted key",
	},
	{
		name: "strangers copy",
		script: `nix copy --no-check-sigs --from "file://$W/cache" $dep 2>said || echo exit $?; grep -o "lacks a signature by a trusted key" said; nix-store --check-validity --print-invalid $dep
			nix store sign -k secret --store "file://$W/cache" $dep; nix copy --from "file://$W/cache" $dep; nix path-info --sigs $dep; cat $S$dep`,
		want: "clients-1:",
	},
	{
		name: "strangers make up outputs", since: "2.24",
		script: `victim=$(nix-instantiate clients.nix -A works); sed 's/echo it works/echo it lies/' $S$victim >evil.drv; evil=$(nix store add --mode text evil.drv 2>/dev/null) && nix-store -r $evil >/dev/null 2>&1 || echo exit $?
			nix-store --check-validity --print-invalid $(nix-store -q --outputs $victim); cat $S$(nix-build clients.nix -A works --no-out-link 2>said); grep -oE "it (works|lies)" said`,
		want: "exit 1",
	},
	{
		name: "strangers register realisations",
		script: `floating=$(nix-build clients.nix -A floating --no-out-link 2>/dev/null); nix realisation info -f clients.nix floating; nix copy --to "file://$W/cache" -f clients.nix floating; nix-store --delete $floating >/dev/null 2>&1
			nix copy --no-check-sigs --from "file://$W/cache" -f clients.nix floating 2>said || echo exit $?; cat said; nix-build --dry-run clients.nix -A floating 2>&1`,
		want:   "lacks a signature by a trusted key",
		unlike: "Nix before 2.35 believes everybody; kiln wants a signature, as newer ones do",
	},
	{
		name: "what keeps others' objects alive", often: true,
		script: `kept=$(nix-store --add tree); (X=$kept exec sleep 60) & sleep 0.2; nix-store --gc --print-roots | grep -e "$kept" | sort -u; kill $!`,
		want:   "{censored}",
	},
	{
		name: "strangers add logs", since: "2.6",
		script: `drv=$(nix-instantiate clients.nix -A dep); nix store copy-log --to "file://$W/cache" $drv; nix store copy-log --from "file://$W/cache" $drv 2>said || echo exit $?; grep -o "you are not privileged to add logs" said`,
		want:   "not privileged",
	},
	{
		name:   "strangers collect garbage",
		script: `nix-store --gc --print-dead 2>/dev/null | grep -v evil | sort; nix-store --gc >/dev/null 2>&1; ls $S/nix/store | wc -l`,
		want:   "-hello.drv",
	},
}
