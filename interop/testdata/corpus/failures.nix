# Builds that fail, and what is left of them.
with import ./lib.nix;
let
  failing = why: says: build: { inherit why says; build = [ build ]; exit = [ 1 100 ]; };
  rejected = why: name: attrs: text: failing why [ name ] (script name attrs text);
  program = name: builder: derivation { inherit name system builder; };
in
{
  exit-code = failing "a builder that says no" [ "failed with exit code 7" ] (script "exit-code" { } "echo the reason; exit 7");

  signal = failing "a builder that is killed" [ "signal 11|Segmentation" ] (script "signal" { } "echo deep; f() { f; }; f");

  no-output = failing "a builder that makes nothing" [ "failed to produce output" ] (script "no-output" { } "echo forgot");

  one-output-missing = failing "a builder that makes one output of two" [ "failed to produce output" ] (script "one-output" { outputs = [ "out" "dev" ]; } "echo x > $out");

  fifo = failing "a named pipe as an output" [ "fifo" ] (script "fifo" { } "mkfifo $out");

  fifo-inside = failing "a named pipe in an output" [ "unsupported type|unknown type|fifo-inside" ] (script "fifo-inside" { } "mkdir $out; mkfifo $out/pipe");

  world-writable = failing "an output that everybody may write" [ "suspicious ownership or permission" ] (script "world-writable" { } "echo x > $out; chmod 666 $out");

  group-writable = failing "an output that a group may write" [ "suspicious ownership or permission" ] (script "group-writable" { } "mkdir $out; chmod 775 $out");

  world-writable-inside = case "within an output such permissions are just taken away" (script "world-writable-inside" { } "mkdir $out; echo x > $out/f; chmod 666 $out/f; mkdir $out/d; chmod 777 $out/d");

  builder-missing = failing "a builder that is not there" [ "No such file" ] (program "builder-missing" "/bin/none") // { ignore.log = "2.8 logs its own encoding of the error, newer Nix and kiln text"; };

  builder-is-text = failing "a builder that is no program" [ "Permission denied" ] (program "builder-is-text" "${builtins.toFile "no-program" "text"}") // { ignore.log = "2.8 logs its own encoding of the error, newer Nix and kiln text"; };

  builder-is-directory = failing "a builder that is a directory" [ "Permission denied" ] (program "builder-is-directory" "${script "some-directory" { } "mkdir $out"}") // { ignore.log = "2.8 logs its own encoding of the error, newer Nix and kiln text"; };

  interpreter-missing = failing "a script whose interpreter is not there" [ "No such file" ] (
    program "interpreter-missing" "${script "bad-script" { } "printf '#!/none/such\\n' > $out; chmod +x $out"}") // { ignore.log = "2.8 logs its own encoding of the error, newer Nix and kiln text"; };

  fails-twice = {
    why = "a failure is forgotten: the next run tries again";
    build = [ (script "fails-twice" { } "echo again; exit 1") ];
    runs = [ { exit = [ 1 100 ]; } { exit = [ 1 100 ]; } ];
  };

  fails-then-works = {
    why = "what a failed build left does not hinder the next one";
    build = [ (script "fails-then-works" { } "mkdir $out; echo x > $out/f; test $NIX_BUILD_CORES = 2") ];
    runs = [ { exit = [ 1 100 ]; } { options.cores = "2"; } ];
  };

  several-reasons = {
    why = "the exit status has all the reasons in it";
    build = [
      (script "several-a" { } "sleep 30")
      (fixed "several-b" "flat" "sha256" (builtins.hashString "sha256" "other") "echo this > $out")
      (script "several-c" { } "exit 1")
    ];
    flags = [ "--keep-going" ];
    options = { timeout = "2"; max-jobs = "3"; };
    exit = [ 1 100 101 102 103 104 105 106 107 ];
  };

  no-jobs = {
    why = "a machine that must not build";
    build = [ (script "no-jobs" { } "echo x > $out") ];
    options.max-jobs = "0";
    exit = [ 1 100 ];
    says = [ "max-jobs" ];
    differs = { exit = 100; because = "refusals exit with 100 since 2.29"; };
  };

  kept-directory = failing "the build directory of a failed build is kept on request" [ "keeping build directory" ] (script "kept-directory" {
    passAsFile = [ "long" ];
    long = "text";
  } ''
    mkdir -p d/e; echo x > d/e/f; chmod 600 d/e/f; chmod 700 d; ln -s d/e link; echo x > $out; exit 1
  '') // { flags = [ "--keep-failed" ]; since = "2.34"; };
}
