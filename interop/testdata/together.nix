# Derivations for two programs that build in one store at the same moment: some
# that only one of them wants, some that both want, and some that need others of
# both sorts. Each builder writes down, in a file of the machine, that it starts
# and that it ends.
{ round }:
let
  build = name: inputs: derivation {
    name = "together-${toString round}-${name}";
    system = builtins.currentSystem;
    inherit inputs;
    builder = "/bin/sh";
    args = [ "-e" "-c" ''
      echo start $name >> /shared/log
      mkdir $out; echo $name > $out/name; echo $inputs > $out/inputs
      sleep 0.$(( $(head -c 1 /dev/urandom | od -An -tu1) % 4 ))
      echo end $name >> /shared/log
    '' ];
  };
  several = kind: inputs: map (n: build "${kind}-${toString n}" inputs) [ 1 2 3 4 5 ];
  base = several "base" [ ];
  shared = several "shared" base;
in {
  nix = map (d: d.drvPath) (several "nix" [ (builtins.head base) ] ++ shared ++ several "nix-top" shared);
  kiln = map (d: d.drvPath) (several "kiln" [ (builtins.head base) ] ++ shared ++ several "kiln-top" shared);
}
