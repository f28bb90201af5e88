# The operator's programs that have a part in builds.
with import ./lib.nix;
let
  shown = "/bin/sh=@busybox@ /shared=@shared@";
  # Older releases tell hooks other things.
  hooked = why: files: options: build: { inherit why files; since = "2.34"; options = { sandbox-paths = shown; } // options; build = [ build ]; };
  refused = why: says: files: options: build: hooked why files options build // { inherit says; exit = [ 1 100 ]; };

  before = { pre-build-hook = "@shared@/before"; };
  after = { post-build-hook = "@shared@/after"; };
  # Writes down what it is told, for builds that come later.
  notes.after = ''
    #!/bin/sh
    { echo "$DRV_PATH"; for path in $OUT_PATHS; do echo "$path"; done; echo "$#"; } > @shared@/told
  '';
  first = script "hook-first" { outputs = [ "out" "dev" ]; } "echo o > $out; echo d > $dev";
  # What a hook wrote when an input was built.
  reader = name: attrs: script name ({ inherit first; } // attrs) "cat /shared/told > $out";

  compare.compare = ''
    #!/bin/sh
    echo "old $1"; echo "new $2"; echo "of $3"
    echo "words $#, in $(pwd), $(cat "$2")"
  '';
  comparing = { run-diff-hook = "true"; diff-hook = "@shared@/compare"; };
  again = { flags = [ "--check" ]; options.cores = "2"; exit = 104; };
in
{
  before = hooked "paths that a hook adds to the sandbox" {
    before = ''
      #!/bin/sh
      echo extra-sandbox-paths
      echo /hook/note=@shared@/note
      echo /hook/dir=@shared@
      echo
    '';
  } before (script "hook-before" { } "cat /hook/note /hook/dir/note > $out; ls /hook >> $out");

  before-told = hooked "what the hook is told: the derivation, and the place of the sandbox" {
    before = ''
      #!/bin/sh
      mkdir -p @shared@/seen
      { echo "$#"; echo "$1"; case $2 in /*-hook-before-told.drv.chroot*) echo place;; esac; } > @shared@/seen/said
    '';
  } before (script "hook-before-told" { } "head -n 3 /shared/seen/said > $out");

  before-instead = hooked "a path in the place of one that there is" {
    before = ''
      #!/bin/sh
      printf 'extra-chroot-dirs\n/place/file=@shared@/note\n\n'
    '';
    other = "other\n";
  } (before // { sandbox-paths = "/bin/sh=@busybox@ /place/file=@shared@/other"; }) (script "hook-before-instead" { } "cat /place/file > $out");

  before-nonsense = refused "an answer that is not understood" [ "unknown pre-build hook command" ] { before = "#!/bin/sh\necho extra-nonsense\n"; } before (
    script "hook-before-nonsense" { } "echo x > $out");

  before-fails = refused "a hook that fails" [ "before" ] { before = "#!/bin/sh\necho words >&2; exit 3\n"; } before (script "hook-before-fails" { } "echo x > $out");

  before-missing = refused "a hook that is not there" [ "before" ] { } before (script "hook-before-missing" { } "echo x > $out");

  before-path-missing = refused "a path that is not there" [ "none" ] { before = "#!/bin/sh\nprintf 'extra-sandbox-paths\\n/x=@shared@/none\\n\\n'\n"; } before (
    script "hook-before-path-missing" { } "echo x > $out");

  after = hooked "what a hook is told of what was built" notes after (reader "hook-after" { });

  after-content-addressed = hooked "likewise of a place by the content" notes (after // { extra-experimental-features = "ca-derivations"; }) (
    reader "hook-after-content-addressed" { first = script "hook-floating" { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputs = [ "out" "dev" ]; } "echo o > $out; echo d > $dev"; });

  after-valid = hooked "nothing is told of what there is already" notes after first // {
    runs = [ { } { options.post-build-hook = "@shared@/none"; } { delete = true; } ];
  };

  after-check = hooked "it is told of what is only checked, if that is the same" { after = "#!/bin/sh\necho told $OUT_PATHS\n"; } { } first // {
    runs = [ { } { flags = [ "--check" ]; options = after; exit = 0; says = [ "told /nix/store/.*-hook-first-dev /nix/store/.*-hook-first\n" ]; } ];
  };

  after-different = hooked "not if that is not" { } { } (script "hook-after-different" { } "echo $NIX_BUILD_CORES > $out") // {
    runs = [ { } { flags = [ "--check" ]; options = { cores = "2"; post-build-hook = "@shared@/none"; }; exit = 104; says = [ "may not be deterministic" ]; } ];
  };

  after-fails = refused "a hook that fails: what was built stays" [ "post-build-hook" "exit" ] { after = "#!/bin/sh\necho words of the hook; exit 3\n"; } after (script "hook-after-fails" { } "echo x > $out");

  after-fails-below = refused "and what needs it is not built" [ "shared/after\" failed with exit code 1" ] { after = "#!/bin/sh\nexit 1\n"; } after (script "hook-after-above" { inherit first; } "cat $first > $out")
    // { flags = [ "--keep-going" ]; };

  after-talks = hooked "a hook's words are not the builder's" { after = "#!/bin/sh\necho words of the hook; echo more >&2\n"; } after (script "hook-after-talks" { } "echo words of the builder; echo x > $out")
    // { says = [ "words of the hook" "more" ]; };

  compared = hooked "a hook shows what is different" compare comparing (script "hook-compared" { } "echo $NIX_BUILD_CORES > $out") // {
    runs = [ { } (again // { says = [ "old /.*-hook-compared\n" "new /.*-hook-compared.check\n" "of /nix/store/.*-hook-compared.drv" "words 4, in /, 2" "may not be deterministic" ]; }) ];
  };

  compared-same = hooked "where nothing is, it is not asked" { compare = "#!/bin/sh\necho asked\n"; } comparing (script "hook-compared-same" { } "echo x > $out") // {
    runs = [ { } { flags = [ "--check" ]; } ];
  };

  compared-fails = hooked "a hook that fails changes nothing" { compare = "#!/bin/sh\necho words; exit 3\n"; } comparing (script "hook-compared-fails" { } "echo $NIX_BUILD_CORES > $out") // {
    runs = [ { } (again // { says = [ "diff hook execution failed" "may not be deterministic" ]; }) ];
  };
}
