# Builds that are made again to see whether they give the same.
with import ./lib.nix;
let
  # What a builder makes of this depends on the setting `cores`.
  other = { options.cores = "2"; flags = [ "--check" ]; };
  again = { flags = [ "--check" ]; };
  differs = other // { exit = 104; says = [ "may not be deterministic: output ['\"].*['\"] differs" ]; };

  built = why: runs: build: { inherit why; build = [ build ]; runs = [ { } ] ++ runs; };
  floating = name: attrs: script name ({ __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; } // attrs);
  contentAddressed = { options.extra-experimental-features = "ca-derivations"; };
  text = "the same\n";
  # Before 2.30, build directories that are kept were in the user's TMPDIR.
  keeps.since = "2.34";
in
{
  same = built "the same again, with its log" [ again ] (script "check-same" { } "echo building; mkdir $out; echo same > $out/f; ln -s $out $out/self");

  different = built "something else: what is there stays, and can be checked again" [ differs again ] (script "check-different" { } "echo $NIX_BUILD_CORES; echo $NIX_BUILD_CORES > $out");

  times = built "times and such permissions as are not kept make no difference" [ other ] (script "check-times" { } ''
    mkdir $out; echo x > $out/f; touch -d @$NIX_BUILD_CORES $out/f; chmod 6''${NIX_BUILD_CORES}4 $out/f
  '');

  executable = built "permission to execute does" [ differs ] (script "check-executable" { } "echo x > $out; if test $NIX_BUILD_CORES = 2; then chmod +x $out; fi");

  one-output = built "one of several outputs differs" [ differs (differs // { wants = [ "out" ]; }) (differs // { wants = [ "dev" ]; }) ] (
    script "check-one-output" { outputs = [ "out" "dev" ]; } "echo $dev > $out; echo $NIX_BUILD_CORES > $dev");

  kept = built "what differs is kept for a look" [ (differs // { flags = [ "--check" "--keep-failed" ]; says = [ "differs from ['\"].*-check-kept.check['\"]" ]; }) ] (
    script "check-kept" { } "mkdir $out; echo $NIX_BUILD_CORES > $out/f; ln -s $out/f $out/link") // keeps;

  kept-again = built "what was kept before gives way" [
    (differs // { flags = [ "--check" "--keep-failed" ]; })
    (differs // { options.cores = "3"; flags = [ "--check" "--keep-failed" ]; })
  ] (script "check-kept-again" { } "echo work > work; echo $NIX_BUILD_CORES > $out") // keeps;

  not-valid = {
    why = "there is nothing to compare with";
    build = [ (script "check-not-valid" { } "echo x > $out") ];
    flags = [ "--check" ];
    exit = [ 1 100 ];
    says = [ "checking is not possible" ];
  };

  fails = built "a builder that does not succeed this time" [ (other // { exit = 100; says = [ "exit code 1" ]; }) ] (
    script "check-fails" { } "echo building; echo x > $out; test $NIX_BUILD_CORES = 1");

  output-missing = built "a builder that makes nothing this time" [ (other // { exit = [ 1 100 ]; says = [ "failed to produce output" ]; }) ] (
    script "check-output-missing" { } "test $NIX_BUILD_CORES = 2 || echo x > $out");

  inputs = {
    why = "inputs are not built again, and not compared";
    build = [ (script "check-top" { input = script "check-input" { } "echo input $NIX_BUILD_CORES; echo $NIX_BUILD_CORES > $out"; } "echo top; cat $input > $out") ];
    runs = [ { } other ];
  };

  fixed-same = built "a fixed output" [ other ] (fixed "check-fixed" "flat" "sha256" (builtins.hashString "sha256" text) "echo $NIX_BUILD_CORES; echo the same > $out");

  fixed-different = built "a fixed output that does not keep to its hash any more" [ (other // { exit = 102; says = [ "hash mismatch in fixed-output derivation" ]; }) ] (
    fixed "check-fixed-different" "recursive" "sha256" "0g9hp5kv9cz9gs16qvfr4s6i4852psh8yakxsinr4w77sxyxcp1r" "test $NIX_BUILD_CORES = 2 || echo the same > $out; test -e $out || echo other > $out");

  content-addressed = built "a place by the content, the same one" [ again ] (floating "check-floating" { outputs = [ "out" "dev" ]; } "echo $out $dev > $out; echo d > $dev") // contentAddressed // { since = "2.34"; };

  several = {
    why = "of several derivations each is compared";
    build = [ (script "check-several-a" { } "echo $NIX_BUILD_CORES > $out") (script "check-several-b" { } "echo b > $out") (script "check-several-c" { } "echo c$NIX_BUILD_CORES > $out") ];
    flags = [ "--keep-going" ];
    runs = [ { } (differs // { says = [ "check-several-a['\"] differs" "check-several-c['\"] differs" ]; }) ];
  };
}
