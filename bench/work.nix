# The derivations that are measured. n is the size of the work.
{ n }:
let
  system = builtins.currentSystem;
  script = name: attrs: text: derivation ({ inherit name system; builder = "/bin/sh"; args = [ "-e" "-c" text ]; } // attrs);
  numbers = builtins.genList (i: i) n;
  drvs = map (d: d.drvPath);
  recursive = name: text: script name { requiredSystemFeatures = [ "recursive-nix" ]; } (''
    export PATH=/usr/bin HOME=/build NIX_CONF_DIR=/build NIX_STATE_DIR=/build/state
    echo "substituters =" > nix.conf
  '' + text + ''
    test $(wc -l < log) = ${toString n}
    echo done > $out
  '');
in {
  trivial = drvs (map (i: script "trivial-${toString i}" { } "echo > $out") numbers);

  noisy = drvs [ (script "noisy" { } "i=0; while [ $i -lt ${toString n} ]; do echo this is line $i of them all; i=$((i+1)); done; echo > $out") ];

  chain = drvs [ (builtins.foldl' (previous: i: script "chain-${toString i}" { inherit previous; } "echo $previous > $out") "" numbers) ];

  directories = drvs [ (script "wide" { inputs = map (i: builtins.path { name = "input-${toString i}"; path = ./inputs + "/${toString i}"; }) numbers; } "echo > $out") ];

  texts = drvs [ (script "wide" { inputs = map (i: builtins.toFile "text-${toString i}" "text ${toString i}") numbers; } "echo > $out") ];

  files = drvs [ (script "files" { } (import ./scripts.nix { inherit n; }).files) ];

  hashes = drvs [ (script "hashes" { } (import ./scripts.nix { inherit n; }).hashes) ];

  large = drvs [ (script "large" { seed = "/seed"; } (import ./scripts.nix { inherit n; }).large) ];

  # A builder that has Nix build n derivations, or add n files, by recursive Nix.
  recursive-builds = drvs [ (recursive "recursive-builds" ''
    cat > list.nix <<'END'
    map (i: derivation { name = "inner-''${toString i}"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }) (builtins.genList (i: i) ${toString n})
    END
    nix-build --no-out-link list.nix > log 2> messages || { cat messages; exit 1; }
  '') ];

  recursive-adds = drvs [ (recursive "recursive-adds" ''
    i=0; while [ $i -lt ${toString n} ]; do echo $i > file-$i; i=$((i+1)); done
    nix-store --add file-* > log
  '') ];
}
