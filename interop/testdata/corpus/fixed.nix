# Outputs whose hash the derivation states.
with import ./lib.nix;
let
  text = "the same every time\n";
  print = "printf 'the same every time\\n' > $out";
  flat = algorithm: case "flat, ${algorithm}" (fixed "flat-${algorithm}" "flat" algorithm (builtins.hashString algorithm text) print);

  # Hashes of the archive that holds such a file.
  archive = {
    md5 = "a4ff49ac1ba5c9c5dbd25540d7b17ba2";
    sha1 = "e921be8f0cde38b02042affba79181bb0b347e50";
    sha256 = "353aaa66b6a216b768dbdbfdcd857b541e8632ddbfb20675759c04b650feb9b7";
    sha512 = "f5c2142ed30080b1eee5e7d55e84aaaf9ee4aa51a4fd84aa4fa4f8e7338ec702b24fe53eb80a693ad5a2ca76212d25063fa3eceb0baa498f9e4e7d683c88ee5f";
  };
  recursive = algorithm: case "recursive, ${algorithm}" (fixed "recursive-${algorithm}" "recursive" algorithm archive.${algorithm} print);

  wrong = mode: algorithm: {
    why = "another content than stated, ${mode}, ${algorithm}";
    build = [ (fixed "wrong-${mode}-${algorithm}" mode algorithm (builtins.hashString algorithm "other") print) ];
    exit = 102;
    says = [ "hash mismatch in fixed-output derivation" "specified" "got" ];
  };
in
{
  flat-md5 = flat "md5";
  flat-sha1 = flat "sha1";
  flat-sha256 = flat "sha256";
  flat-sha512 = flat "sha512";

  recursive-md5 = recursive "md5";
  recursive-sha1 = recursive "sha1";
  recursive-sha256 = recursive "sha256";
  recursive-sha512 = recursive "sha512";

  recursive-tree = case "a whole tree" (fixed "tree" "recursive" "sha256" "f158da311b37827b233f83e1f77431010386f00f6d9601258d0f7abf27b9f2e9" ''
    mkdir -p $out/bin; echo tool > $out/bin/tool; chmod +x $out/bin/tool; ln -s bin/tool $out/link
  '');

  sri = case "a hash that says its algorithm" (script "sri" { outputHash = "sha256-MAXK0H3guRGfrMHtGvvNc+LO2H/0q/uPmEVTl6lGZZs="; outputHashMode = "flat"; } print);

  as-input = case "a fixed output that another derivation uses" (
    let source = fixed "source" "flat" "sha256" (builtins.hashString "sha256" text) print;
    in script "uses-fixed" { inherit source; } "cat $source > $out; echo $source >> $out"
  );

  two-ways-to-the-same = case "two derivations that state the same output, one of which needs the other" (
    let
      same = more: script "two-ways" ({ outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" text; } // more);
      first = same { } "echo first; ${print}";
    in same { after = "${first.drvPath}"; inherit first; } "echo second; ${print}"
  );

  network = {
    why = "such a builder sees a network";
    build = [ (fixed "network" "flat" "sha256" (builtins.hashString "sha256" text) ''
      tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort
      test $(tail -n +3 /proc/net/dev | wc -l) -gt 1 || test ! -e /etc/resolv.conf
      test -z "$HIDDEN"
      ${print}
    '') ];
    ignore = { log = "with kiln it is one of the builder's own"; };
  };

  network-of-the-machine = {
    why = "without that, it sees the machine's network";
    options = { user-network = "off"; };
    build = [ (fixed "network-of-the-machine" "flat" "sha256" (builtins.hashString "sha256" text) ''
      tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort
      ${print}
    '') ];
  };

  checked-flag = case "the builder can see that its output is checked" (fixed "checked-flag" "flat" "sha256" (builtins.hashString "sha256" "1\n") "echo $NIX_OUTPUT_CHECKED > $out");

  wrong-flat-sha256 = wrong "flat" "sha256";
  wrong-flat-sha1 = wrong "flat" "sha1";
  wrong-recursive-sha512 = wrong "recursive" "sha512";

  flat-but-executable = {
    why = "a flat output must not be executable";
    build = [ (fixed "flat-executable" "flat" "sha256" (builtins.hashString "sha256" text) "${print}; chmod +x $out") ];
    exit = [ 1 100 ];
    says = [ "non-executable regular file" ];
  };

  flat-but-directory = {
    why = "a flat output must not be a directory";
    build = [ (fixed "flat-directory" "flat" "sha256" (builtins.hashString "sha256" text) "mkdir $out") ];
    exit = [ 1 100 ];
    says = [ "non-executable regular file" ];
  };
}
