# Outputs that are made anew each time. nix-store cannot print the path of one, so each
# case asks for something on top: what is there of the impure ones is compared all the same.
with import ./lib.nix;
let
  impure = name: attrs: script name ({ __impure = true; } // attrs);
  options.extra-experimental-features = "ca-derivations impure-derivations";
  # A fixed output, which may need impure ones.
  on = name: attrs: text: script name ({
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "fixed\n";
  } // attrs) "${text}; echo fixed > $out";
  # Older releases have other names for what is impure.
  since = "2.34";
  one = why: build: { inherit why options since; build = [ build ]; };
  refused = why: says: build: one why build // { inherit says; exit = [ 1 100 ]; };

  # Another content where a setting is another.
  cores = impure "impure-cores" { outputs = [ "out" "dev" ]; } "echo cores $NIX_BUILD_CORES; echo $NIX_BUILD_CORES > $out; echo $out $dev > $dev";
in
{
  below-fixed = one "a fixed output on top of an impure one, which refers to itself and to its sibling" (on "on-impure" { inherit cores; } "cat $cores");

  each-time = {
    why = "what is impure is built again when something needs it, and the older one stays";
    inherit options since;
    build = [ (on "on-impure-again" { inherit cores; } "echo with $cores") ];
    runs = [ { } { delete = true; options.cores = "2"; } { delete = true; } ];
  };

  not-needed = {
    why = "what is impure is not built again for an output that is there";
    inherit options since;
    build = [ (on "on-impure-once" { inherit cores; } "cat $cores") ];
    runs = [ { } { options.cores = "2"; } ];
  };

  built-once = one "in one run it is built once, whoever needs it" (
    let reader = n: impure "impure-reader-${n}" { inherit cores; } "cat $cores > $out; echo $cores >> $out";
    in on "on-readers" { readers = [ (reader "a") (reader "b") cores.dev ]; } "for r in $readers; do cat $r; done");

  chain = one "impure on impure on what has a content address on what has none" (
    let
      plain = script "impure-plain" { } "echo plain > $out";
      floating = script "impure-floating" { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; inherit plain; } "cat $plain > $out; echo $plain >> $out";
      first = impure "impure-first" { inherit floating; } "cat $floating > $out; echo $floating >> $out";
      second = impure "impure-second" { inherit first; } "mkdir $out; ln -s $first $out/first; ln -s $out $out/self";
    in on "on-chain" { inherit second; } "cat $second/self/first");

  pure-above-fixed = one "what is pure may need a fixed output that needed an impure one" (
    script "above-fixed" { fetched = on "on-impure-below" { inherit cores; } "cat $cores"; } "cat $fetched > $out; echo $fetched >> $out");

  pure-needs-impure = refused "what is pure may not need what is not" [ "depends on impure derivation" ] (script "pure-needs-impure" { inherit cores; } "cat $cores > $out");

  floating-needs-impure = refused "nor what has a content address" [ "depends on impure derivation" ] (
    script "floating-needs-impure" { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; inherit cores; } "cat $cores > $out");

  network = one "such a builder sees the machine's network" (on "on-network" {
    network = impure "impure-network" { } "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort > $out; env | cut -d= -f1 | sort >> $out";
  } "cat $network") // { options = options // { user-network = "off"; }; };

  modes = one "other ways to a content address, and structured attributes" (on "on-modes" {
    inputs = [
      (impure "impure-flat" { outputHashMode = "flat"; } "echo flat > $out")
      (impure "impure-sha512" { outputHashMode = "recursive"; outputHashAlgo = "sha512"; } "echo sha512 > $out")
      (impure "impure-structured" { __structuredAttrs = true; list = [ 1 2 ]; } "grep -o '\"list\":[^]]*]' /build/.attrs.json > ${builtins.placeholder "out"}")
    ];
  } "cat $inputs");

  fails = refused "an impure builder that fails" [ "exit code 9" "on-failing" ] (on "on-failing" { failing = impure "impure-failing" { } "echo x > $out; exit 9"; } "cat $failing");

  feature-off = {
    why = "without the feature nothing impure is built";
    options.extra-experimental-features = "ca-derivations";
    build = [ (on "on-feature-off" { inherit cores; } "cat $cores") ];
    exit = [ 1 100 ];
    says = [ "impure-derivations" ];
  };
}
