# The derivations that are measured. n is the size of the work.
{ n }:
let
  system = builtins.currentSystem;
  script = name: attrs: text: derivation ({ inherit name system; builder = "/bin/sh"; args = [ "-e" "-c" text ]; } // attrs);
  numbers = builtins.genList (i: i) n;
  drvs = map (d: d.drvPath);
in {
  trivial = drvs (map (i: script "trivial-${toString i}" { } "echo > $out") numbers);

  chain = drvs [ (builtins.foldl' (previous: i: script "chain-${toString i}" { inherit previous; } "echo $previous > $out") "" numbers) ];

  directories = drvs [ (script "wide" { inputs = map (i: builtins.path { name = "input-${toString i}"; path = ./inputs + "/${toString i}"; }) numbers; } "echo > $out") ];

  texts = drvs [ (script "wide" { inputs = map (i: builtins.toFile "text-${toString i}" "text ${toString i}") numbers; } "echo > $out") ];

  files = drvs [ (script "files" { } (import ./scripts.nix { inherit n; }).files) ];

  hashes = drvs [ (script "hashes" { } (import ./scripts.nix { inherit n; }).hashes) ];

  large = drvs [ (script "large" { seed = "/seed"; } (import ./scripts.nix { inherit n; }).large) ];
}
