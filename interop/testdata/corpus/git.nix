# Fixed outputs by the hash that git has for them.
with import ./lib.nix;
let
  both = why: name: text: hashes: {
    inherit why;
    build = map (algorithm: fixed "git-${name}-${algorithm}" "git" algorithm hashes.${algorithm} text) (builtins.attrNames hashes);
    since = "2.34";
    options.extra-experimental-features = "git-hashing";
  };
  refused = why: says: build: {
    inherit why says;
    build = [ build ];
    since = "2.34";
    options.extra-experimental-features = "git-hashing ca-derivations";
    exit = [ 1 100 102 ];
  };
  floating = name: attrs: script name ({ __contentAddressed = true; outputHashMode = "git"; outputHashAlgo = "sha1"; } // attrs);

  content = {
    sha1 = "d95f3ad14dee633a758d2e331151e950dd13e4ed";
    sha256 = "7c490ebf9db90b84753749c721ef2bedfeb85c1da94160f2619df1249c64bdda";
  };
in
{
  file = both "a file is a blob" "file" "echo content > $out" content;

  executable = both "so is one that can be run" "executable" "echo content > $out; chmod +x $out" content;

  link = both "a symlink is the blob of its target" "link" "ln -s target $out" {
    sha1 = "1de565933b05f74c75ff9a6520af5f9f8a5a2f1d";
    sha256 = "fed183069fe19669f65384b7a5d87b447abf0a29591abf6800df208a55af5b02";
  };

  empty-file = both "an empty file" "empty-file" ": > $out" {
    sha1 = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";
    sha256 = "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813";
  };

  empty-directory = both "a directory without anything in it, which git itself has only as a root" "empty-directory" "mkdir $out" {
    sha1 = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
    sha256 = "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321";
  };

  tree = both "a tree with a program, a link, an empty directory" "tree" "mkdir -p $out/bin $out/empty; cd $out; echo tool > bin/tool; chmod 700 bin/tool; ln -s bin/tool link; echo x > file; chmod 600 file" {
    sha1 = "cd3cdf161d3b949ac2abebd91d0266496582e2ef";
    sha256 = "a660af4138c523b825d311a48f3454cc5b309b55cff6f6f29a324e1649f19af9";
  };

  order = both "entries are in git's order, in which a directory's name ends with a slash" "order" "mkdir -p $out/a $out/ab; cd $out; for f in a/x ab/x a.b a0 a-b A é; do echo x > $f; done" {
    sha1 = "2b9cc72176ac16eef287d89e4738c3832a58606d";
    sha256 = "a2ab5c2c947073ba45a55adb116ef1670b7384652880e4975964afed1ffc6a1b";
  };

  wrong-file = refused "another content than stated" [ "hash mismatch in fixed-output derivation" "specified" "got" ] (
    fixed "git-wrong-file" "git" "sha1" content.sha1 "echo other > $out");

  wrong-tree = refused "another tree than stated" [ "hash mismatch in fixed-output derivation" ] (
    fixed "git-wrong-tree" "git" "sha256" content.sha256 "mkdir $out; echo content > $out/file");

  reference = refused "no place for references" [ "git-reference" ] (
    script "git-reference" { outputHashMode = "git"; outputHashAlgo = "sha1"; outputHash = content.sha1; input = script "git-input" { } "echo x > $out"; } "echo $input > $out");

  floating = {
    why = "a place that follows from git's hash";
    since = "2.34";
    options.extra-experimental-features = "git-hashing ca-derivations";
    build = [
      (floating "git-floating" { outputs = [ "out" "dev" ]; } "mkdir $out; echo x > $out/x; echo tool > $dev; chmod +x $dev")
      (floating "git-floating-sha256" { outputHashAlgo = "sha256"; } "mkdir -p $out/d; echo x > $out/d/x; ln -s d/x $out/link")
    ];
  };

  feature-off = refused "without the feature there is no such hash" [ "git-hashing" ] (fixed "git-feature-off" "git" "sha1" content.sha1 "echo content > $out")
    // { options.extra-experimental-features = "ca-derivations"; };
}
