# Outputs that a disk has spoilt, and their repair.
with import ./lib.nix;
let
  repair = { flags = [ "--repair" ]; };
  spoilt = names: repair // { damage = names; };
  built = why: runs: build: { inherit why; build = [ build ]; runs = [ { } ] ++ runs; };
  stays.ignore.store = "the damage stays";
in
{
  file = built "a damaged output is built again" [ (spoilt [ "repair-file" ]) ] (script "repair-file" { } "echo building; echo x > $out");

  sound = built "what is not damaged is not built again" [ (repair // { options.cores = "2"; }) ] (script "repair-sound" { } "echo $NIX_BUILD_CORES; echo x > $out") // { since = "2.34"; };

  not-valid = built "what is not there is built" [ (repair // { delete = true; options.cores = "2"; }) ] (script "repair-not-valid" { } "echo $NIX_BUILD_CORES; echo x > $out");

  at-first = { why = "so is what was never there"; build = [ (script "repair-at-first" { } "echo x > $out") ]; flags = [ "--repair" ]; };

  inside = built "one file in a tree, with a link to itself" [ (spoilt [ "repair-inside/d/f" ]) ] (
    script "repair-inside" { } "mkdir -p $out/d; echo x > $out/d/f; echo y > $out/d/g; ln -s $out/d $out/link; chmod +x $out/d/g");

  one-output = built "one of several outputs, of which the other stays" [ (spoilt [ "repair-one-output-dev" ]) ] (
    script "repair-one-output" { outputs = [ "out" "dev" ]; } "echo $dev > $out; echo d > $dev");

  all-outputs = built "all outputs, which refer to each other" [ (spoilt [ "repair-all-outputs-dev" "repair-all-outputs" ]) ] (
    script "repair-all-outputs" { outputs = [ "out" "dev" ]; } "echo $dev > $out; echo d > $dev");

  input = built "what is damaged is an input of what was asked for" [ (spoilt [ "repair-input" ]) ] (
    script "repair-top" { input = script "repair-input" { } "echo input > $out"; } "cat $input > $out; echo $input >> $out");

  input-of-input = built "or an input of that" [ (spoilt [ "repair-lowest" ]) ] (
    script "repair-highest" { middle = script "repair-middle" { lowest = script "repair-lowest" { } "echo lowest > $out"; } "ln -s $lowest $out"; } "ln -s $middle $out");

  not-in-the-closure = built "an input that no output refers to is not looked at" [ (repair // { damage = [ "repair-unused" ]; }) ] (
    script "repair-user" { unused = script "repair-unused" { } "echo unused > $out"; } "wc -c < $unused > $out") // stays;

  fixed = built "a fixed output" [ (spoilt [ "repair-fixed" ]) ] (fixed "repair-fixed" "flat" "sha256" (builtins.hashString "sha256" "fixed\n") "echo fixed > $out");

  another-content = built "the repair gives something else than was there" [ (spoilt [ "repair-other" ] // { options.cores = "2"; }) ] (
    script "repair-other" { } "echo $NIX_BUILD_CORES > $out");

  fails = built "a repair that does not succeed changes nothing" [ (spoilt [ "repair-fails" ] // { options.cores = "2"; exit = [ 1 100 ]; }) { flags = [ "--repair" ]; } ] (
    script "repair-fails" { } "test $NIX_BUILD_CORES = 1; echo x > $out");

  source = built "a source cannot be built" [ (spoilt [ "repair-source.txt" ] // { exit = [ 1 100 ]; says = [ "repair-source.txt" ]; }) ] (
    script "repair-of-source" { source = builtins.toFile "repair-source.txt" "source\n"; } "echo $source > $out")
  // stays // { since = "2.34"; };
}
