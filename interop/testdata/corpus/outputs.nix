# Several outputs, and references of all sorts.
with import ./lib.nix;
{
  several = case "several outputs, of which the first is not called out" (script "several" { outputs = [ "lib" "out" "doc" ]; } ''
    mkdir $lib; echo l > $lib/l
    echo o > $out
    mkdir -p $doc/share; echo d > $doc/share/d
  '');

  one-of-several = {
    why = "only the wanted output is printed, but all of them become valid";
    build = [ (script "one-of-several" { outputs = [ "out" "dev" "man" ]; } "echo o > $out; echo d > $dev; echo m > $man") ];
    wants = [ "dev" ];
    runs = [ { } { wants = [ "dev" "man" ]; } { wants = [ "out" ]; } ];
  };

  reference-between-outputs = case "outputs that refer to each other without a circle" (script "between" { outputs = [ "out" "dev" "bin" ]; } ''
    echo $bin > $out
    echo $out $bin > $dev
    echo nothing > $bin
  '');

  reference-to-self = case "a path that contains its own name" (script "self" { } "mkdir $out; echo $out/bin > $out/self; ln -s $out/self $out/link");

  self-and-each-other = case "self references together with references to a sibling" (script "self-sibling" { outputs = [ "out" "dev" ]; } "echo $out > $out; echo $dev $out > $dev");

  circle = {
    why = "outputs that refer to each other in a circle are refused";
    build = [ (script "circle" { outputs = [ "out" "dev" ]; } "echo $dev > $out; echo $out > $dev") ];
    exit = [ 1 100 ];
    says = [ "cycle" ];
  };

  one-output-of-an-input = case "only the output that is needed of an input is there, and is referred to" (
    let library = script "library" { outputs = [ "out" "dev" ]; } "echo o > $out; echo d > $dev";
    in script "user" { header = library.dev; } "cat $header > $out; echo $header >> $out; ls /nix/store | grep -c library >> $out"
  );

  references-that-hide = case "references at the ends of a file, in its name, in a symlink, across 64 KiB, in binary data" (
    let
      input = n: script "hidden-${n}" { } "echo ${n} > $out";
      a = input "a"; b = input "b"; c = input "c"; d = input "d"; e = input "e"; f = input "f";
    in script "hiding" { inherit a b c d e f; } ''
      mkdir $out
      hash() { echo ''${1#/nix/store/} | cut -c1-32; }
      printf %s $(hash $a) > $out/whole
      ln -s $b/missing $out/link
      echo x > $out/$(hash $c)
      { head -c 65520 /dev/zero; printf %s $(hash $d); head -c 100 /dev/zero; } > $out/across
      printf '\001%s\377' $(hash $e) > $out/binary
      hash $f | cut -c1-31 > $out/not-quite
    ''
  );

  references-in-upper-case = case "a hash in another case is no reference" (
    let input = script "shouted" { } "echo x > $out";
    in script "upper-case" { inherit input; } "echo $input | tr a-z A-Z > $out"
  );

  no-references = case "an input that the output does not mention" (
    let input = script "forgotten" { } "echo x > $out";
    in script "mentions-nothing" { inherit input; } "wc -c < $input > $out"
  );

  symlink-as-output = case "an output that is a symlink, to another output" (script "symlink-output" { outputs = [ "out" "real" ]; } "mkdir $real; ln -s $real $out");

  empty-outputs = case "an empty file and an empty directory" (script "empty" { outputs = [ "out" "dir" ]; } ": > $out; mkdir $dir");
}
