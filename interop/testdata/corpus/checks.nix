# What a derivation demands of its outputs: what they may refer to, and their sizes.
with import ./lib.nix;
let
  leaf = script "leaf" { } "echo leaf > $out";
  middle = script "middle" { inherit leaf; outputs = [ "out" "dev" ]; } "echo $leaf > $out; echo dev > $dev";
  other = script "other" { } "echo other > $out";
  inputs = { inherit leaf middle other; dev = middle.dev; };

  refused = why: says: build: { inherit why says; build = [ build ]; exit = [ 1 100 ]; };
  forbidden = [ "is not allowed to refer to the following paths" ];
  # Refers to the middle, and through it to the leaf.
  top = name: attrs: script name (inputs // attrs) "echo $middle > $out";
  selfish = name: attrs: script name (inputs // attrs) "echo $middle $out > $out";

  structured = name: checks: script name (inputs // {
    __structuredAttrs = true;
    outputs = [ "out" "doc" ];
    outputChecks = checks;
  }) ''
    echo ${middle} ${builtins.placeholder "out"} > ${builtins.placeholder "out"}
    echo ${builtins.placeholder "out"} > ${builtins.placeholder "doc"}; head -c 1000 /dev/zero >> ${builtins.placeholder "doc"}
  '';
in
{
  allowed-references = case "only what is in the list" (top "allowed-references" { allowedReferences = [ middle leaf ]; });

  allowed-references-missing = refused "something that is not in the list" (forbidden ++ [ "-middle" ]) (top "allowed-references-missing" { allowedReferences = [ leaf other ]; });

  allowed-none = refused "an empty list allows nothing" forbidden (top "allowed-none" { allowedReferences = [ ]; });

  allowed-none-and-none-there = case "which is fine with an output without references" (script "allowed-nothing" (inputs // { allowedReferences = [ ]; allowedRequisites = [ ]; }) "echo x > $out");

  allowed-self = case "an output by its name" (selfish "allowed-self" { allowedReferences = [ "out" middle ]; });

  allowed-self-missing = refused "its own path is a reference like others" forbidden (selfish "allowed-self-missing" { allowedReferences = [ middle ]; });

  allowed-requisites = case "everything that can be reached, but itself" (selfish "allowed-requisites" { allowedRequisites = [ middle leaf ]; });

  allowed-requisites-missing = refused "something that is reached through another" (forbidden ++ [ "-leaf" ]) (top "allowed-requisites-missing" { allowedRequisites = [ middle ]; });

  disallowed-references = case "what is only reached is no reference" (top "disallowed-references" { disallowedReferences = [ leaf other ]; });

  disallowed-references-there = refused "what must not be referred to" (forbidden ++ [ "-middle" ]) (top "disallowed-references-there" { disallowedReferences = [ other middle ]; });

  disallowed-requisites = case "what is not reached" (top "disallowed-requisites" { disallowedRequisites = [ other middle.dev ]; });

  disallowed-requisites-there = refused "what must not be reached" (forbidden ++ [ "-leaf" ]) (top "disallowed-requisites-there" { disallowedRequisites = [ leaf ]; });

  disallowed-self = refused "an output must not have its own path in it" forbidden (selfish "disallowed-self" { disallowedReferences = [ "out" ]; });

  unknown-output = refused "the name of an output that there is not" [ "not a valid output|non-existent|not an output|no such output|unknown-output" ] (top "unknown-output" { allowedReferences = [ "nonsense" middle ]; });

  each-output = case "every output its own demands" (structured "each-output" {
    out = { allowedReferences = [ "out" middle ]; maxSize = 4096; allowedRequisites = [ "out" middle leaf ]; };
    doc = { disallowedReferences = [ middle ]; maxClosureSize = 100000; };
  });

  one-output = refused "of several outputs one does not comply" (forbidden ++ [ "-one-output" ]) (structured "one-output" {
    out.disallowedRequisites = [ other ];
    doc.disallowedRequisites = [ leaf ];
  });

  self-not-ignored = refused "here its own path counts as reached, whatever is said" forbidden (structured "self-not-ignored" { out = { allowedRequisites = [ middle leaf ]; ignoreSelfRefs = true; }; });

  too-large = refused "an output that is larger than it may be" [ "is too large at 1[0-9]* bytes; limit is 1000 bytes" ] (structured "too-large" { doc.maxSize = 1000; });

  closure-too-large = refused "an output whose closure is" [ "closure of path '.*' is too large at [0-9]+ bytes; limit is 1500 bytes" ] (structured "closure-too-large" { doc.maxSize = 1500; doc.maxClosureSize = 1500; });

  discarded = case "references that are not looked for" (script "discarded" (inputs // {
    __structuredAttrs = true;
    outputs = [ "out" "doc" ];
    unsafeDiscardReferences.out = true;
    outputChecks.out.allowedReferences = [ ];
  }) "echo ${middle} > ${builtins.placeholder "out"}; echo ${other} > ${builtins.placeholder "doc"}") // { since = "2.34"; };

  not-discarded = case "only of the outputs that say so" (script "not-discarded" (inputs // {
    __structuredAttrs = true;
    unsafeDiscardReferences.out = false;
  }) "echo ${middle} > ${builtins.placeholder "out"}") // { since = "2.34"; };
}
