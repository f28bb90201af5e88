# What TestClients builds. Each world has its id in all derivations.
let
  system = "@system@";
  sh = name: attributes: text: derivation ({
    inherit name system;
    builder = "/bin/sh";
    args = [ "-e" "-c" text ];
    id = "@id@";
  } // attributes);
in rec {
  dep = sh "dep" { } "echo first line of dep; echo dep > $out";
  hello = sh "hello" { inherit dep; outputs = [ "out" "doc" ]; } ''
    read x < $dep
    echo log of hello
    echo hello $x $dep > $out
    mkdir $doc
    echo doc of hello $out > $doc/text
    echo "#!/bin/sh" > $doc/run
    chmod +x $doc/run
    ln -s text $doc/link
  '';
  top = sh "top" { inherit hello; } "echo building top; echo $hello > $out";
  slow = sh "slow" { } "echo before; sleep 20; echo slow > $out";
  silent = sh "silent" { } "echo before; sleep 20; echo silent > $out";
  fails = sh "fails" { } "echo it fails; exit 3";
  needs = sh "needs" { inherit fails; } "echo $fails > $out";
  works = sh "works" { } "echo it works; echo works > $out";
  several = [ fails works ];
  unsteady = sh "unsteady" { } "read x < /proc/sys/kernel/random/uuid; echo $x > $out";
  nothing = sh "nothing" { } "echo makes no output";

  # The hash of "abc", and another one.
  fixed = sh "fixed" {
    outputHashMode = "flat"; outputHashAlgo = "sha256";
    outputHash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  } "printf abc > $out";
  wrong = sh "wrong" {
    outputHashMode = "flat"; outputHashAlgo = "sha256";
    outputHash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ae";
  } "printf abc > $out";

  floating = sh "floating" {
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
  } "echo floating > $out";
  onFloating = sh "on-floating" {
    inherit floating;
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
  } "echo on $floating > $out";
  file = sh "file" { source = builtins.toFile "source" "text in a file @id@\n"; } "cat $source > $out";
  tree = sh "tree" { source = ./tree; } "ls $source > $out";
  structured = sh "structured" { builder = "/bin/bash"; outputs = [ "a" "b" ]; list = [ 1 "two" ]; __structuredAttrs = true; } ''
    . "$NIX_ATTRS_SH_FILE"
    echo "''${list[@]}" > ''${outputs[a]}
    echo b > ''${outputs[b]}
  '';

  tool = sh "tool-1.0" { } "mkdir -p $out/bin; echo '#!/bin/sh' > $out/bin/tool; echo echo tool 1.0 >> $out/bin/tool; chmod +x $out/bin/tool";
  newTool = sh "tool-2.0" { } "mkdir -p $out/bin; echo '#!/bin/sh' > $out/bin/tool; echo echo tool 2.0 >> $out/bin/tool; chmod +x $out/bin/tool";
  other = sh "other-1.0" { } "mkdir -p $out/share; echo other > $out/share/other";

  shell = derivation {
    name = "shell";
    inherit system dep;
    outputs = [ "out" ];
    builder = "/bin/bash";
    args = [ "-c" "echo nobody builds this; exit 1" ];
    marker = "value of marker";
    id = "@id@";
    shellHook = "hooked=yes";
  };
}
