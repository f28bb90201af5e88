# Builders that are no programs.
with import ./lib.nix;
let
  # What such a builder says of its work is its own, with Nix's colours and progress.
  own.ignore.log = "the words of the builder";
  quiet = why: build: case why build // own;
  refused = why: says: build: quiet why build // { inherit says; exit = [ 1 100 ]; };
  from64 = name: text: script name { passAsFile = [ "text" ]; inherit text; } "base64 -d < $textPath > $out";

  fetch = name: hash: attrs: derivation ({
    inherit name;
    builder = "builtin:fetchurl";
    system = "builtin";
    outputHashMode = if attrs.unpack or false || attrs.executable or false then "recursive" else "flat";
    outputHashAlgo = "sha256";
    outputHash = hash;
  } // attrs);
  text = "text\n";
  textHash = builtins.hashString "sha256" text;
  file = script "to-fetch" { } "echo text > $out";

  treeHash = "0nn7fz2wd14d3h4zmf1an20lwz865xpcx00gdj3wmlgi9wn1clr3";
  # The archive of a tree with a program, a link and a file.
  archive = from64 "tree.nar.xz" "/Td6WFoAAATm1rRGAgAhARwAAAAQz1jM4ANnAKVdAAaANh/vps6/droaek8r6qRTJO2hIwRx/1u/l2m68ym+JXpxK+m02g1+mo+dXiRt4hQG2Q3fBgNl2mCa65AB1oHhhoJhXSCzcmWcUnkl94mhQo6bsBQYbLBSXNj4cCYiYtIPD1dF1MUvwNtP0npwXoDXfzR612kwee/xVPUArL7Ya+dggbbyXja2+GqlOYpzhiqTynmg7W/HFOiKCulgpMeO6eDdEAAAAACDTAr/wy4VTgABwQHoBgAAGSXHM7HEZ/sCAAAAAARZWg==";

  profile = name: packages: derivation {
    inherit name;
    builder = "builtin:buildenv";
    system = "builtin";
    manifest = builtins.toFile "manifest.nix" "[ ]\n";
    derivations = map (p: if p ? package then [ (if p.active or true then "true" else "false") (p.priority or 5) 1 p.package ] else [ "true" 5 1 p ]) packages;
  };
  package = name: commands: script name { } "mkdir $out; cd $out; ${commands}";
  first = package "first" "mkdir -p bin share/first share/both/deep; echo first > bin/first; echo first > bin/common; echo f > share/both/f; echo f > share/first/f";
  second = package "second" "mkdir -p bin share/second share/both/deep; echo second > bin/second; echo s > share/both/s; echo s > share/both/deep/s";
  rival = package "rival" "mkdir -p bin; echo rival > bin/common";

  channel = name: src: derivation { inherit name src; builder = "builtin:unpack-channel"; system = "builtin"; channelName = "unpacked"; };
  # A tar file without times or owners of its own.
  tar = name: commands: script name { } "mkdir t; cd t; ${commands}; find . | xargs touch -h -d @1; tar -c * | gzip -n > $out";
in
{
  fetch = quiet "a file" (fetch "fetched" textHash { url = "file://${file}"; });

  fetch-machine = quiet "a file of the machine that is in the sandbox" (fetch "fetched-machine" (builtins.hashString "sha256" "note\n") { url = "file:///shared/note"; })
    // { options.sandbox-paths = "/bin/sh=@busybox@ /shared=@shared@"; };

  fetch-program = quiet "a file that can be run" (fetch "fetched-program" "1dhhq7dkjx7qdwzhc6h95ak4allf77yy9z244npgmlahf11x85bj" { url = "file://${file}"; executable = true; });

  fetch-archive = quiet "an archive that is unpacked" (fetch "fetched-archive" treeHash { url = "file://${script "tree.nar" { inherit archive; } "xzcat < $archive > $out"}"; unpack = true; });

  fetch-compressed = quiet "likewise if it is compressed, which its name says" (fetch "fetched-compressed" treeHash { url = "file://${archive}"; unpack = true; });

  fetch-not-unpacked = quiet "an archive that is not unpacked stays compressed" (fetch "fetched-not-unpacked" "4347df4fe3fe15273fe5e18765ad1799c83ec2068e9f94b6fa9faeaa2c7dccd8" { url = "file://${archive}"; });

  fetch-wrong = refused "something else than expected" [ "hash mismatch in fixed-output derivation" ] (fetch "fetched-wrong" (builtins.hashString "sha256" "other") { url = "file://${file}"; }) // { exit = 102; };

  fetch-missing = refused "a file that is not there" [ "file:///none/such" ] (fetch "fetched-missing" textHash { url = "file:///none/such"; });

  fetch-no-archive = refused "what is no archive cannot be unpacked" [ "fetched-no-archive" ] (fetch "fetched-no-archive" treeHash { url = "file://${file}"; unpack = true; });

  fetch-not-fixed = refused "a download must say what it is to give" [ "must be a fixed-output or impure derivation" ] (
    derivation { name = "fetched-not-fixed"; builder = "builtin:fetchurl"; system = "builtin"; url = "file://${file}"; }) // { since = "2.34"; };

  unknown = refused "a builder that there is not" [ "unsupported builtin builder" ] (derivation { name = "unknown-builtin"; builder = "builtin:nonsense"; system = "builtin"; });

  profile = case "links to files, to directories of one package, into directories of several" (profile "profile" [ first second ]);

  profile-priority = case "of two files of one name that of the lower number" (profile "profile-priority" [ { package = rival; priority = 1; } first { package = package "third" "mkdir bin; echo third > bin/common"; priority = 10; } ]);

  profile-conflict = refused "two files with one name and one priority" [ "-first/bin/common" "-rival/bin/common" ] (profile "profile-conflict" [ first rival ]);

  profile-inactive = case "packages that are off" (profile "profile-inactive" [ first { package = rival; active = false; } ]);

  profile-propagated = case "packages that others bring along, which yield to all others" (
    let
      lowest = package "lowest" "mkdir bin; echo lowest > bin/lowest; echo lowest > bin/common";
      bringing = script "bringing" { inherit lowest; } "mkdir -p $out/nix-support $out/bin; echo b > $out/bin/b; echo $lowest > $out/nix-support/propagated-user-env-packages";
      more = script "more" { inherit bringing rival; } "mkdir -p $out/nix-support; echo $bringing $rival > $out/nix-support/propagated-user-env-packages";
    in profile "profile-propagated" [ more first ]);

  profile-oddities = quiet "a package that is a file, hidden files, links to nowhere, what every package has" (profile "profile-oddities" [
    file
    (package "odd" "mkdir -p nix-support info lib/log sub; echo x > .hidden; ln -s nowhere dangling; ln -s sub link; echo x > propagated-build-inputs; echo x > info/dir; echo x > lib/log/x; echo x > lib/perllocal.pod; echo x > manifest.json; echo x > sub/x")
    (package "even" "mkdir -p link info; echo y > link/y; echo y > info/y")
  ]);

  profile-file-first = refused "a directory where another package has a file" [ "collision between .*-has-directory/thing.* and non-directory" ] (profile "profile-file-first" [
    { package = package "has-file" "echo x > thing"; priority = 1; } (package "has-directory" "mkdir thing; echo y > thing/y")
  ]);

  profile-file-last = refused "a file where other packages have a directory" [ "collision between non-directory .*-has-file/thing.* and directory" ] (profile "profile-file-last" [
    (package "one-directory" "mkdir thing; echo x > thing/x") (package "has-directory" "mkdir thing; echo y > thing/y")
    { package = package "has-file" "echo x > thing"; priority = 9; }
  ]);

  channel = case "a tree out of a tar file" (channel "channel" (tar "channel.tar.gz" "mkdir -p c/d; echo x > c/d/x; echo run > c/run; chmod 700 c/run; ln -s run c/link; ln c/run c/hard"));

  channel-xz = case "which may be compressed otherwise" (channel "channel-xz" (from64 "channel.tar.xz" "/Td6WFoAAATm1rRGAgAhARwAAAAQz1jM4Cf/ALVdADGaCEf/b3ygvQRt9EyDUiNd+VN5eHyc+mZXbau5LWbDxXNDCtaRcujsU1RxIaBN7z5TopDSQVVM2eNkI0Bb9FOrExCEYSHv7SBjvxX58TBo5Oh/5k7O4eczda2bQ/IkmDZo2mi+RAvk0khsf+Ue+lUD/MjLQsVgr8i1af1Zn9xu3S5Z60Z5gCmj043HNGPZv8fcdcPCD+tIqUcUl5nLV67c7WZh8emg/UiPgr0S+dJ4rZFwxXwAAAAApFKg6hREfMgAAdEBgFAAAGyqsqaxxGf7AgAAAAAEWVo="));

  channel-bzip2 = case "or so" (channel "channel-bzip2" (from64 "channel.tar.bz2" "QlpoOTFBWSZTWQs9CaAAAOFfgMmRQAH/gAACBERvbZ5KCGgwALgMaNGgGTIaMRpoGmBjRo0AyZDRiNNA0wEUo0BTanqHqA8SaHqNkynHXpl9F0YXjU8iEGaxFTAPPRJqiC5L54nidMErStFIBO7acdtZD6FIrQkCDjk5yQbaPZIJoiLyauCebOUjLxasGqknppKjOi1tgHQfBI059jfi7Hn87DrqMspHYKBlxIeu+41BgEw0pZwlhj5U8cQfnKjpioH+LuSKcKEgFnoTQA=="));

  channel-name = refused "a name with a slash" [ "channelName is not allowed to contain filesystem separators" ] (
    derivation { name = "channel-name"; builder = "builtin:unpack-channel"; system = "builtin"; channelName = "a/b"; src = tar "named.tar.gz" "mkdir c; echo x > c/x"; }) // { since = "2.34"; };

  channel-two = refused "two directories in it" [ "contains more than one file" ] (channel "channel-two" (tar "two.tar.gz" "mkdir a b; echo x > a/x; echo x > b/x"));
}
