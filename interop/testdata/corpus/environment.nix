# What settings and attributes make of a builder's surroundings, and of what it says.
with import ./lib.nix;
let
  with-options = why: options: build: { inherit why options; build = [ build ]; };
  refused = why: says: options: build: { inherit why says options; build = [ build ]; exit = [ 1 100 ]; };
  # Where a builder is, and whether it sees the machine.
  place = name: attrs: script name attrs "pwd > $out; ls / >> $out; echo $TMPDIR >> $out";
  text = "fixed\n";
  known = name: attrs: commands: script name (attrs // {
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" text;
  }) "${commands}; echo fixed > $out";
in
{
  relaxed-ordinary = with-options "in a store elsewhere there is a sandbox, whatever the setting says" { sandbox = "relaxed"; } (place "relaxed-ordinary" { });

  sandbox-off = with-options "likewise if none is wanted" { sandbox = "false"; } (place "sandbox-off" { });

  relaxed-fixed = with-options "and for fixed outputs" { sandbox = "relaxed"; user-network = "off"; } (known "relaxed-fixed" { } "pwd; ls /");

  impure-variables = with-options "variables of the machine, for fixed outputs" {
    extra-experimental-features = "configurable-impure-env";
    impure-env = "FIRST=one SECOND=two=2";
  } (known "impure-variables" { impureEnvVars = [ "FIRST" "SECOND" "THIRD" "OWN" ]; OWN = "mine"; } "echo \${FIRST-unset} \${SECOND-unset} \${THIRD-unset} \"<\${OWN-unset}>\"") // { since = "2.34"; };

  impure-variables-of-others = with-options "not for others" {
    extra-experimental-features = "configurable-impure-env";
    impure-env = "FIRST=one";
  } (script "impure-variables-of-others" { impureEnvVars = [ "FIRST" ]; } "echo \${FIRST-unset} > $out") // { since = "2.34"; };

  impure-variables-off = with-options "the setting does nothing without the feature" { impure-env = "FIRST=one"; } (
    known "impure-variables-off" { impureEnvVars = [ "FIRST" ]; } "echo \"<\${FIRST-unset}>\"") // { since = "2.34"; };

  machine-paths = with-options "paths of the machine that a derivation may ask for, as far as they are there" { allowed-impure-host-deps = "/none/such /usr/share/none"; } (
    script "machine-paths" { __impureHostDeps = [ "/none/such/file" "/usr/share/none" ]; } "ls / > $out");

  machine-paths-refused = refused "and those that it may not" [ "/etc/shadow" ] { allowed-impure-host-deps = "/none/such"; } (
    script "machine-paths-refused" { __impureHostDeps = [ "/etc/shadow" ]; } "echo x > $out");

  build-directory-with-store = (refused "a build directory that the store is in" [ "sandbox-build-dir" ] { sandbox-build-dir = "/nix"; } (place "build-directory-with-store" { })) // { since = "2.34"; };

  no-kvm = refused "virtual machines, where there are none" [ "kvm" ] { } (script "no-kvm" { requiredSystemFeatures = [ "kvm" ]; } "echo x > $out")
    // { differs = { exit = 100; because = "refusals exit with 100 since 2.29"; }; };

  where-to-build = case "attributes that say where to build, and nothing here" (script "where-to-build" { preferLocalBuild = true; allowSubstitutes = false; } "echo x > $out");

  cores = with-options "how many cores a builder may take" { cores = "3"; } (script "cores" { } "echo $NIX_BUILD_CORES > $out");

  all-cores = (with-options "all that there are" { cores = "0"; } (script "all-cores" { } "test $NIX_BUILD_CORES = $(nproc); echo x > $out")) // { since = "2.34"; };

  old-kernel = with-options "a kernel that says that it is an old one" { impersonate-linux-26 = "true"; } (script "old-kernel" { } "uname -r | cut -d. -f1,2 > $out");

  new-privileges = with-options "the kernel's promise that there are no new privileges, given up" { allow-new-privileges = "true"; } (
    script "new-privileges" { } "grep NoNewPrivs /proc/self/status > $out");

  log-words = (case "lines that are meant for Nix are in the log as they are" (script "log-words" { } ''
    say() { printf '%s\n' "$1" >&2; }
    say '@nix {"action":"setPhase","phase":"buildPhase"}'
    say '@nix {"action":"msg","level":3,"msg":"a message"}'
    say '@nix {"action":"msg","level":0,"msg":"an error that is none"}'
    say '@nix {"action":"start","id":1,"level":3,"type":101,"text":"a download","parent":0,"fields":[]}'
    say '@nix {"action":"result","id":1,"type":105,"fields":[1,2,3,4]}'
    say '@nix {"action":"stop","id":1}'
    say '@nix {"action":"unknown"}'
    say '@nix {"action":"setPhase"}'
    say '@nix {"no action":1}'
    say '@nix {broken'
    say '@nix '
    say '@nix'
    say ' @nix {"action":"setPhase","phase":"later"}'
    say 'and plain words'
    echo x > $out
  '')) // { since = "2.34"; };

  log-lines = refused "the last lines of a failure, as many as wanted" [ "ast 3 log lines" "line 5\n" "line 6\n" "line 7\n" ] { log-lines = "3"; } (
    script "log-lines" { } "for i in 1 2 3 4 5 6 7; do echo line $i; done; exit 1") // { flags = [ "--log-format" "bar" ]; };

  log-kept-plain = with-options "a log that is not compressed" { compress-build-log = "false"; } (script "log-kept-plain" { } "echo words; echo x > $out");

  log-not-kept = with-options "no log" { keep-build-log = "false"; } (script "log-not-kept" { } "echo words; echo x > $out");

  optimised = with-options "files that are alike become one" { auto-optimise-store = "true"; } (
    script "optimised" { outputs = [ "out" "dev" ]; } "mkdir $out $dev; for d in $out $dev; do echo same > $d/a; echo same > $d/b; echo x > $d/x; chmod +x $d/x; done");
} // (if system != "x86_64-linux" then { } else {
  older-machine = with-options "the older kind of this machine" { extra-platforms = "i686-linux"; } (script "older-machine" { system = "i686-linux"; } "uname -m > $out");

  older-machine-refused = refused "which has to be allowed" [ "i686-linux" ] { extra-platforms = ""; } (script "older-machine-refused" { system = "i686-linux"; } "uname -m > $out")
    // { differs = { exit = 100; because = "refusals exit with 100 since 2.29"; }; };
})
