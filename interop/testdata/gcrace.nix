# n derivations for builders that are raced by collectors: small, with a few that
# many others need.
{ n }:
let
  build = name: inputs: derivation {
    inherit name inputs;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-e" "-c" "mkdir $out; for i in $inputs; do test -e $i/name; echo $i >> $out/inputs; done; echo $name > $out/name" ];
  };
  numbers = builtins.genList (i: i) n;
  bases = builtins.genList (i: build "base-${toString i}" [ ]) 6;
  base = i: builtins.elemAt bases (i - i / 6 * 6);
in map (i: (build "race-${toString i}" [ (base i) (base (i + 1)) ]).drvPath) numbers
