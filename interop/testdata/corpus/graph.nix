# exportReferencesGraph: the builder gets the closure of an input as a file.
with import ./lib.nix;
let
  leaf = script "leaf" { } "echo leaf > $out";
  middle = script "middle" { inherit leaf; outputs = [ "out" "extra" ]; } "mkdir $out; ln -s $leaf $out/leaf; echo $out > $extra";
  top = script "top" { inherit middle; loop = builtins.placeholder "out"; } "echo $middle $loop > $out";
in
{
  closure = case "a closure with a self reference" (script "graph-closure" { exportReferencesGraph = [ "graph" top ]; } "cat graph > $out");

  several = case "several graphs" (script "graph-several" { exportReferencesGraph = [ "first" leaf "second.txt" middle.extra ]; } "cat first > $out; echo --- >> $out; cat second.txt >> $out");

  with-sources = case "a graph with sources in it" (
    let source = builtins.toFile "graph-source" "mentions nothing"; user = script "source-user" { inherit source; } "echo $source > $out";
    in script "graph-sources" { exportReferencesGraph = [ "graph" user ]; } "cat graph > $out"
  );

  not-an-input = {
    why = "a path that is no store path cannot be exported";
    build = [ (script "graph-not-an-input" { exportReferencesGraph = [ "graph" "/etc/passwd" ]; } "echo x > $out") ];
    exit = [ 1 100 ];
    says = [ "/etc/passwd" ];
    differs = { exit = 1; because = "options are read where the derivation is, outside of what a build refuses, since 2.29"; };
  };
}
