# Derivations of every shape that Nix can write. Evaluates to an attribute set of
# derivations; `ca` adds those that need experimental features.
{ ca ? false }:

let
  sh = args: derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; } // args);
  script = name: text: sh { inherit name; args = [ "-c" text ]; };
  zeros = n: builtins.concatStringsSep "" (builtins.genList (_: "0") n);

  fixed = algo: mode: digest: sh {
    name = "fixed-${algo}-${mode}";
    args = [ "-c" "echo ${mode} > $out" ];
    outputHashAlgo = algo;
    outputHashMode = mode;
    outputHash = digest;
  };

  text = builtins.toFile "text" "hello\n";
  textWithReference = builtins.toFile "text-with-reference" "${text}\n";
  source = builtins.path { path = ./source; name = "source"; };
  flatSource = builtins.path { path = ./source/file; name = "flat-source"; recursive = false; };

  simple = script "simple" "echo hello > $out";
  multiple = sh {
    name = "multiple";
    outputs = [ "out" "dev" "man" ];
    args = [ "-c" "echo > $out; echo > $dev; echo > $man" ];
  };
  devFirst = sh { name = "dev-first"; outputs = [ "dev" "lib" ]; };

  # The same content by two ways: what depends on them must not tell them apart.
  mirror = url: sh {
    name = "mirror";
    args = [ "-c" "fetch ${url}" ];
    outputHashAlgo = "sha256";
    outputHashMode = "flat";
    outputHash = "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4";
  };
  oneMirror = script "mirrored" "cat ${mirror "http://one.example/"} > $out";
  otherMirror = script "mirrored" "cat ${mirror "http://other.example/"} > $out";

  plain = {
    inherit simple multiple devFirst oneMirror otherMirror;
    escapes = sh {
      name = "escapes";
      args = [ "quote \" backslash \\ newline \n return \r tab \t" "ünïcödé ☃" "" "\\n" "$out \${x}" ];
      "key \"\\\n\t" = "\\\\\"\"";
      value = "\n\n\r\n\t\"\\";
    };
    strangeName = script "a+b-._?=0Z" "echo > $out";
    noArguments = sh { name = "no-arguments"; };
    emptyStrings = sh { name = "empty-strings"; a = ""; args = [ "" ]; };
    scalars = sh { name = "scalars"; t = true; f = false; n = null; i = -7; l = [ "a" 1 [ "b" ] ]; };
    builtin = derivation {
      name = "builtin"; system = "builtin"; builder = "builtin:fetchurl";
      url = "http://one.example/"; outputHashAlgo = "sha256"; outputHashMode = "flat"; outputHash = zeros 64;
    };
    sources = script "sources" "cat ${text} ${textWithReference} ${source}/file ${flatSource} > $out";
    mirrors = script "mirrors" "cat ${mirror "http://one.example/"} ${mirror "http://other.example/"} > $out";
    mirroredTwice = script "mirrored-twice" "cat ${oneMirror} ${otherMirror} > $out";
    inputs = script "inputs" "cat ${simple} ${multiple} ${multiple.man} ${multiple.dev} ${devFirst.lib} > $out";
    diamond = let
      left = script "left" "cat ${simple} > $out";
      right = script "right" "cat ${simple} ${left} > $out";
    in script "diamond" "cat ${left} ${right} > $out";
    derivationAsInput = script "derivation-as-input" "cat ${builtins.unsafeDiscardOutputDependency multiple.drvPath} > $out";
    derivationAndOutputs = script "derivation-and-outputs" "cat ${multiple.drvPath} > $out";
    structured = sh {
      name = "structured";
      __structuredAttrs = true;
      outputs = [ "out" "lib" ];
      string = "it's \"quoted\" \\ \n é";
      integer = 42;
      big = 9223372036854775807;
      negative = -3;
      float = 1.5;
      small = 1.0e-7;
      third = 1.0 / 3;
      whole = 2.0;
      yes = true;
      no = false;
      nothing = null;
      list = [ 1 "two" false null ];
      nested = { a = [ { b = 1; } ]; c = { }; };
      input = simple;
      outputChecks.out = { allowedReferences = [ "out" simple ]; maxSize = 1000; };
      unsafeDiscardReferences.lib = true;
    };
    options = sh {
      name = "options";
      allowedReferences = [ simple "out" ];
      disallowedRequisites = multiple;
      allowedRequisites = [ ];
      passAsFile = [ "big" "other" ];
      big = "big\nfile";
      other = "";
      exportReferencesGraph = [ "graph" simple "graph-2" source ];
      requiredSystemFeatures = [ "kvm" "big-parallel" ];
      impureEnvVars = "http_proxy https_proxy";
      preferLocalBuild = true;
      allowSubstitutes = false;
      __noChroot = true;
      __impureHostDeps = "/dev/kvm /etc/hosts";
      __sandboxProfile = "(allow file-read*)";
    };
    fixedMD5 = fixed "md5" "flat" (zeros 32);
    fixedMD5Recursive = fixed "md5" "recursive" "d41d8cd98f00b204e9800998ecf8427e";
    fixedSHA1 = fixed "sha1" "flat" (zeros 40);
    fixedSHA1Recursive = fixed "sha1" "recursive" "da39a3ee5e6b4b0d3255bfef95601890afd80709";
    fixedSHA256 = fixed "sha256" "flat" "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s";
    fixedSHA256Recursive = fixed "sha256" "recursive" "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
    fixedSHA512 = fixed "sha512" "flat" (zeros 128);
    fixedSHA512Recursive = fixed "sha512" "recursive" (zeros 128);
  };

  floating = sh {
    name = "floating";
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
    outputs = [ "out" "lib" ];
    args = [ "-c" "echo > $out; echo > $lib" ];
  };
  producer = script-drv: sh {
    name = "producer.drv";
    __contentAddressed = true;
    outputHashMode = "text";
    outputHashAlgo = "sha256";
    args = [ "-c" "cp ${builtins.unsafeDiscardOutputDependency script-drv.drvPath} $out" ];
  };
  impure = sh { name = "impure"; __impure = true; args = [ "-c" "echo > $out" ]; };
  deferred = script "deferred" "cat ${floating} ${floating.lib} > $out";

  experimental = {
    inherit floating deferred impure;
    floatingFlat = sh {
      name = "floating-flat";
      __contentAddressed = true;
      outputHashMode = "flat";
      outputHashAlgo = "sha512";
    };
    deferredTwice = script "deferred-twice" "cat ${deferred} ${simple} > $out";
    onImpure = sh { name = "on-impure"; __impure = true; args = [ "-c" "cat ${impure} > $out" ]; };
    producer = producer simple;
    dynamic = script "dynamic" "cat ${builtins.outputOf (producer simple).outPath "out"} ${simple} > $out";
    dynamicTwice = script "dynamic-twice"
      "cat ${builtins.outputOf (builtins.outputOf (producer (producer simple)).outPath "out") "out"} > $out";
    fixedText = fixed "sha256" "text" "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4";
    fixedBLAKE3 = fixed "blake3" "flat" (zeros 64);
    fixedBLAKE3Recursive = fixed "blake3" "recursive" (zeros 64);
    fixedGit = fixed "sha1" "git" (zeros 40);
    structuredDeferred = sh {
      name = "structured-deferred";
      __structuredAttrs = true;
      input = floating;
      exportReferencesGraph.graph = [ floating simple ];
    };
  };
in
if ca then experimental else plain
