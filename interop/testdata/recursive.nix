# Derivations whose builders have each other built: tree has a number of leaves built,
# and then the tree below it. Half of the leaves are wanted by all trees of a level.
# Each builder writes down, in a file of the machine, that it starts and that it ends.
let
  build = name: attributes: text: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-e" "-c" ("echo start $name >> /shared/log\n" + text + "\necho end $name >> /shared/log") ];
  } // attributes);
  numbers = builtins.genList (i: toString (i + 1)) 6;
in rec {
  leaves = who: level:
    map (i: build "leaf-${toString level}-${i}" { } "echo x > $out") numbers ++
    map (i: build "${who}-${toString level}-${i}" { } "echo x > $out") numbers;

  tree = who: level: build "tree-${who}-${toString level}" {
    requiredSystemFeatures = [ "recursive-nix" ];
    PATH = "/usr/bin:/bin";
    NIX_CONFIG = "substituters =";
    inherit who level;
  } ''
    export HOME=$TMPDIR USER=x NIX_CONF_DIR=$TMPDIR NIX_STATE_DIR=$TMPDIR/state
    nix-instantiate -E "(import /shared/recursive.nix).leaves \"$who\" $level" > leaves 2> said
    test $(wc -l < leaves) = 12
    nix-store -r $(head -n 5 leaves) > one 2>> said & one=$!
    nix-store -r $(tail -n 7 leaves) > two 2>> said & two=$!
    wait $one; wait $two
    below=
    if test $level != 1; then
      below=$(nix-store -r $(nix-instantiate -E "(import /shared/recursive.nix).tree \"$who\" $((level - 1))" 2>> said) 2>> said)
      test -e $below
    fi
    for leaf in $(cat one two); do test "$(cat $leaf)" = x; done
    test $(cat one two | sort -u | wc -l) = 12
    echo $(cat one two) $below > $out
  '';
}
