# One derivation with one output, and what its builder is given.
with import ./lib.nix;
{
  smallest = case "the least that a build can be" (script "smallest" { } "echo hello > $out");

  arguments = case "arguments arrive as they are: empty, with blanks, quotes, newlines, bytes above 127" (derivation {
    name = "arguments";
    inherit system;
    builder = "/bin/sh";
    args = [ "-c" ''for a in "$0" "$@"; do printf '<%s>\n' "$a"; done > $out'' "" " two  blanks " "it's \"quoted\"" "a\nb\tc\rd" "$HOME `id` \\n" "½ Straße" ];
  });

  environment = case "exactly the variables that Nix sets, and the derivation's own" (script "environment" {
    plain = "value";
    number = 17;
    yes = true;
    no = false;
    nothing = null;
    list = [ "a" 1 "b c" ];
    empty = "";
    lines = "one\ntwo\n";
    "odd-name.x" = "kept";
  } "tr '\\0' '\\n' < /proc/self/environ | grep -v '^_=' | sort > $out");

  environment-overridden = case "some of those variables give way to the derivation, others do not" (script "environment-overridden" {
    PATH = "/bin:/other";
    HOME = "/somewhere";
    NIX_STORE = "/other/store";
    NIX_BUILD_CORES = "99";
    TMPDIR = "/not/this";
    TERM = "vt52";
    NIX_BUILD_TOP = "/nor/this";
    NIX_LOG_FD = "7";
    PWD = "/nowhere";
  } "tr '\\0' '\\n' < /proc/self/environ | grep -v '^_=' | sort > $out");

  pass-as-file = case "attributes that are too large for the environment come as files" (script "pass-as-file" {
    passAsFile = [ "long" "other" ];
    long = builtins.concatStringsSep "\n" (map (n: "line ${toString n} of a long text") (upTo 4000));
    other = "short";
  } ''
    wc -c < $longPath > $out
    cat $otherPath $longPath >> $out
    echo "''${long-unset} ''${other-unset} $passAsFile" >> $out
  '');

  name-with-signs = case "every sign that a name may have" (script "Aa0+-._?=z" { } "echo $name > $out");

  name-of-greatest-length = case "the longest name whose derivation still has one" (script
    (builtins.substring 0 207 (builtins.concatStringsSep "" (map (n: "abcdefghij") (upTo 21))))
    { } "echo $name > $out");

  large-environment = case "a hundred kilobytes of variables" (script "large-environment"
    (builtins.listToAttrs (map (n: { name = "v${toString n}"; value = builtins.concatStringsSep "," (map toString (upTo 250)); }) (upTo 100)))
    "tr '\\0' '\\n' < /proc/self/environ | grep ^v | sort > $out");

  placeholders = case "the output's path in arguments, variables and files before it is known" (script "placeholders" {
    own = builtins.placeholder "out";
    passAsFile = [ "text" ];
    text = "in a file: ${builtins.placeholder "out"}";
  } ''
    test $own = $out
    cat $textPath > ${builtins.placeholder "out"}
  '');

  feature-there = {
    why = "a required feature that the machine has";
    build = [ (script "feature-there" { requiredSystemFeatures = [ "kiln-interop" ]; } "echo x > $out") ];
  };

  feature-missing = {
    why = "a required feature that the machine lacks refuses the build";
    build = [ (script "feature-missing" { requiredSystemFeatures = [ "kiln-interop" "moon-dust" ]; } "echo x > $out") ];
    exit = [ 1 100 ];
    says = [ "moon-dust" ];
    differs = { exit = 100; because = "refusals exit with 100 since 2.29"; };
  };

  other-system = {
    why = "a derivation for another machine";
    build = [ (script "other-system" { system = "vax-bsd"; } "echo x > $out") ];
    exit = [ 1 100 ];
    says = [ "vax-bsd" ];
    differs = { exit = 100; because = "refusals exit with 100 since 2.29"; };
  };

  valid-already = {
    why = "what is valid is not built again, and is printed all the same";
    build = [ (script "valid-already" { } "echo once; echo x > $out") ];
    runs = [ { } { } ];
  };

  deleted-and-built-again = {
    why = "the log and the deriver of a path that was deleted in between";
    build = [ (script "deleted-and-built-again" { } "echo again; echo x > $out") ];
    runs = [ { } { delete = true; } ];
  };

  two-at-once = {
    why = "independent derivations of one request";
    build = [ (script "two-at-once-a" { } "sleep 0.2; echo a > $out") (script "two-at-once-b" { } "sleep 0.2; echo b > $out") ];
  };
}
