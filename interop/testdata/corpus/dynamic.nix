# Derivations that a builder makes, and outputs of those.
with import ./lib.nix;
let
  text = name: attrs: script name ({ __contentAddressed = true; outputHashMode = "text"; outputHashAlgo = "sha256"; } // attrs);
  floating = name: attrs: script name ({ __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; } // attrs);

  # The file of a derivation, as something to work on.
  file = drv: builtins.unsafeDiscardOutputDependency drv.drvPath;
  # What an output of a derivation will be that a builder makes.
  of = producer: output: builtins.outputOf (builtins.unsafeDiscardOutputDependency producer.outPath) output;

  one = why: build: {
    inherit why;
    build = [ build ];
    since = "2.34";
    options.extra-experimental-features = "ca-derivations dynamic-derivations";
  };
  refused = why: says: build: one why build // { inherit says; exit = [ 1 100 ]; };

  # A derivation to be changed into another one.
  model = floating "model" { outputs = [ "out" "dev" ]; } "echo word; echo word > $out; mkdir $dev; ln -s $out $dev/link";
  # Copies a derivation with another word in it.
  changed = name: from: word: text "${name}.drv" { inherit from; } "echo ${word}; sed 's/word/${word}/' $from > $out";
  made = changed "made" (file model) "other";
  user = name: producer: script name { made = of producer "out"; } "cat $made; cat $made > $out; echo $made >> $out";
in
{
  text = one "a text, which may refer to others" (
    let input = script "text-input" { } "echo x > $out"; in text "text" { inherit input; } "echo $input > $out");

  fixed-text = one "a text whose hash is known" (script "fixed-text" {
    outputHashMode = "text";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "known\n";
  } "echo known > $out");

  text-with-self = refused "a text has no place for its own path" [ "self" ] (text "text-with-self" { } "echo $out > $out");

  text-as-directory = refused "a text is a file" [ "non-executable regular file" ] (text "text-as-directory" { } "mkdir $out");

  copy = one "a copy of a derivation is that derivation" (text "model.drv" { from = file model; } "cp $from $out");

  wrapper = one "the output of a derivation that was made is an input" (user "wrapper" made);

  wrapper-of-plain = one "likewise where its path is known beforehand" (
    let plain = script "plain" { } "echo plain > $out"; in user "wrapper-of-plain" (text "plain.drv" { from = file plain; } "cp $from $out"));

  several-outputs = one "of several outputs each, and of two derivations" (script "several-made" {
    a = of made "dev";
    b = of made "out";
    c = of (changed "made-too" (file model) "third") "dev";
  } "cat $a/link $b $c/link > $out; echo $a $c >> $out");

  twice = one "two needs of one derivation that was made" (
    let reader = n: floating "reader-${n}" { made = of made "out"; } "cat $made > $out; echo ${n} >> $out";
    in script "twice" { a = reader "a"; b = reader "b"; } "cat $a $b > $out");

  in-between = one "a content address on top, and more on top of that" (
    let middle = floating "middle" { made = of made "out"; } "cat $made > $out";
    in script "in-between" { inherit middle; } "cat $middle > $out; echo $middle >> $out");

  made-by-made = one "a derivation that is made by one that is made" (
    let
      inner = text "inner.drv" { from = file model; } "sed 's/word/deep/' $from > $out";
      outer = text "inner.drv.drv" { from = file inner; } "cp $from $out";
    in script "made-by-made" { made = builtins.outputOf (of outer "out") "out"; } "cat $made > $out");

  maker-fails = refused "no derivation is made" [ "exit code 4" "needs-maker" ] (user "needs-maker" (text "failing.drv" { } "exit 4"));

  made-fails = refused "the derivation that is made fails" [ "needs-made" "exit code 5" ] (user "needs-made" (changed "failing-made" (file model) "no; exit 5"));

  no-derivation = refused "what is made is no derivation" [ "error parsing derivation" "no-derivation" ] (user "needs-derivation" (text "no-derivation.drv" { } "echo something else > $out"));

  feature-off = refused "without the feature there is nothing of that" [ "dynamic-derivations" ] (user "feature-off" made)
    // { options.extra-experimental-features = "ca-derivations"; };
}
