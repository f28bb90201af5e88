# Outputs whose place is known only when their content is (floating content addresses).
with import ./lib.nix;
let
  floating = name: attrs: script name ({
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  } // attrs);
  options.extra-experimental-features = "ca-derivations";
  several = why: build: { inherit why build options; };
  one = why: build: several why [ build ];
  rejected = why: says: build: one why build // { inherit says; exit = [ 1 100 ]; };

  # Older releases hash what refers to itself in another way.
  newer = c: c // { since = "2.34"; };

  tree = "mkdir -p $out/bin; echo tool > $out/bin/tool; chmod +x $out/bin/tool; ln -s bin/tool $out/link";
in
{
  recursive = one "a tree, by the hash of its archive" (floating "ca-recursive" { } tree);

  flat = one "a file, by the hash of its bytes" (floating "ca-flat" { outputHashMode = "flat"; } "echo flat > $out");

  algorithms = several "every algorithm for archives and for files" (
    builtins.concatMap (algorithm: map (mode: floating "ca-${mode}-${algorithm}" { outputHashMode = mode; outputHashAlgo = algorithm; } "echo content > $out") [ "recursive" "flat" ])
      [ "md5" "sha1" "sha256" "sha512" ]);

  self-reference = newer (one "a tree that has its own path in a file, in a link, twice in a row" (floating "ca-self" { } ''
    mkdir $out; echo $out/bin > $out/self; ln -s $out/self $out/link; printf %s%s $out $out > $out/twice
  ''));

  between-outputs = newer (one "outputs that refer to each other, and one that refers to itself too" (
    floating "ca-between" { outputs = [ "out" "dev" "bin" ]; } "echo $bin > $out; echo $out $bin $dev > $dev; echo nothing > $bin"));

  same-outputs = one "two outputs with one content have names of their own" (floating "ca-same-outputs" { outputs = [ "out" "copy" ]; } "echo x > $out; echo x > $copy");

  circle = rejected "a circle of outputs has no content address" [ "cycle" ] (
    floating "ca-circle" { outputs = [ "out" "dev" ]; } "echo $dev > $out; echo $out > $dev");

  flat-with-reference = rejected "a flat content address has no place for references" [ "not allowed to refer to other store paths" "unsafeDiscardReferences" ] (
    floating "ca-flat-reference" { outputHashMode = "flat"; input = script "ca-flat-input" { } "echo x > $out"; } "echo $input > $out")
    // { since = "2.34"; };

  cut-off = several "two derivations with one content: what depends on them is built once" (
    let
      # One after the other: the first is the deriver.
      base = n: floating "ca-base" { after = if n == 1 then null else top 1; } "echo the same > $out";
      top = n: floating "ca-top" { base = base n; } "echo building; cat $base > $out; echo $base >> $out";
    in [ (top 1) (top 2) ]);

  cut-off-later = {
    why = "an input that is made again otherwise, with the same content, does not rebuild what depends on it";
    inherit options;
    build = let base = n: floating "ca-later" { number = n; } "test $number != 2 -o $NIX_BUILD_CORES = 2; echo the same > $out";
      in map (n: floating "ca-depends" { later = base n; } "echo built with $NIX_BUILD_CORES; cat $later > $out") [ 1 2 ];
    flags = [ "--keep-going" ];
    runs = [ { exit = [ 1 100 ]; } { options.cores = "2"; } ];
  };

  # A key of nobody.
  signed = newer (one "who builds signs objects, and which outputs they are" (
    floating "ca-signed" { input = floating "ca-signed-input" { } "echo input > $out"; } "cat $input > $out; echo $input >> $out")
    // {
      files.key = "test.example-1:9XcYl8Dd4vfCDXxiqqI7shyW8euOSN6wMysCkU8anmv3kJNO08u2JTg17Q4uwY8DtvFZ6v7h9vpO12kjyNZQfg==";
      options = options // { secret-key-files = "@shared@/key"; };
    });

  chain = one "five in a row, each of which refers to the one before" (
    let link = n: if n == 0 then floating "ca-chain-0" { } "echo start > $out" else floating "ca-chain-${toString n}" { previous = link (n - 1); } "cat $previous > $out; echo $previous >> $out";
    in link 5);

  deferred = several "outputs by their inputs, on top of inputs by their content" (
    let
      base = n: floating "ca-below" { after = if n == 1 then null else top 1; } "echo the same > $out";
      middle = n: script "deferred-middle" { base = base n; outputs = [ "out" "dev" ]; } "echo $base > $out; echo $out > $dev";
      top = n: script "deferred-top" { middle = (middle n).dev; } "echo $middle > $out; cat $middle >> $out";
    in [ (top 1) (top 2) ]);

  mixed = one "content addresses on top of paths by inputs, and a fixed output in between" (
    let
      plain = script "ca-plain" { } "echo plain > $out";
      first = floating "ca-first" { inherit plain; } "cat $plain > $out; echo $plain >> $out";
      fetched = script "ca-fetched" { inherit first; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "plain\n"; } "head -n 1 $first > $out";
    in floating "ca-last" { inherit first fetched; } "cat $first $fetched > $out; echo $first $fetched >> $out");

  fails = {
    why = "the failure below a content-addressed input is that of what depends on it; what is made before stays";
    inherit options;
    build =
      let
        good = floating "ca-good" { } "echo good > $out";
        bad = floating "ca-bad" { inherit good; } "cat $good; exit 3";
      in [ (floating "ca-needs-bad" { inherit bad; } "cat $bad > $out") (script "deferred-needs-bad" { inherit bad; } "cat $bad > $out") ];
    flags = [ "--keep-going" ];
    exit = [ 1 100 ];
    says = [ "exit code 3" "ca-needs-bad" ];
  };

  one-output-of-an-input = one "only the output that is needed of an input is in the sandbox" (
    let library = floating "ca-library" { outputs = [ "out" "dev" "doc" ]; } "echo o > $out; echo d > $dev; echo doc > $doc";
    in floating "ca-user" { outputs = [ "out" "man" ]; header = library.dev; } "cat $header > $out; ls /nix/store | grep -c library >> $out; echo m > $man");

  valid-already = several "what was made once is found again" [ (floating "ca-again" { outputs = [ "out" "dev" ]; } "echo again; echo $dev > $out; echo d > $dev") ]
    // { runs = [ { } { } { wants = [ "dev" ]; } ]; };

  as-a-source = several "an output that is in the store already, as a source" [
    (floating "source" { source = builtins.path { path = ./tree; name = "source"; }; } "echo copied; cp -r $source $out; chmod -R u+w $out")
  ];

  at-the-same-time = several "two builds that make the same output at once" [
    (floating "ca-twin" { n = 1; } "sleep 0.2; echo twin > $out")
    (floating "ca-twin" { n = 2; } "sleep 0.2; echo twin > $out")
  ] // { ignore.deriver = "the one that was last"; };

  placeholders = newer (one "the place that is not known yet, in arguments, variables and files" (floating "ca-placeholders" {
    own = builtins.placeholder "out";
    passAsFile = [ "text" ];
    text = "in a file: ${builtins.placeholder "out"}";
    outputs = [ "out" "dev" ];
  } ''
    test $own = $out; mkdir $out
    cat $textPath > ${builtins.placeholder "out"}/text; echo $own > $out/own; echo ${builtins.placeholder "out"}/x > $dev
  ''));

  structured = one "structured attributes with such outputs and such inputs" (
    let input = floating "ca-input" { __structuredAttrs = true; outputs = [ "out" "dev" ]; } "echo i > ${builtins.placeholder "out"}; echo d > ${builtins.placeholder "dev"}";
    in floating "ca-structured" { __structuredAttrs = true; nested.list = [ input.dev ]; } ''
      cat ${input} ${input.dev} > ${builtins.placeholder "out"}
      grep -o '/nix/store/[a-z0-9]*-ca-input-dev' /build/.attrs.json >> ${builtins.placeholder "out"}
      grep -c ca-structured /build/.attrs.json >> ${builtins.placeholder "out"} || true
    ''
  );

  graph = newer (one "the closure of such an input as a file" (
    let
      leaf = floating "ca-leaf" { } "echo leaf > $out";
      top = floating "ca-graph-top" { inherit leaf; } "mkdir $out; ln -s $leaf $out/leaf; echo $out > $out/self";
    in script "ca-graph" { exportReferencesGraph = [ "graph" top ]; } "cat graph > $out"
  ));

  permissions = one "the content address is that of the tree as it is in the store" (floating "ca-permissions" { } ''
    mkdir $out; for mode in 644 755 500 400 666; do echo $mode > $out/f$mode; chmod $mode $out/f$mode; done; mkdir $out/d; chmod 777 $out/d; touch -d @0 $out/f644
  '');
}
