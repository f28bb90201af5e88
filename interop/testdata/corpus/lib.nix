# What the groups share.
rec {
  system = builtins.currentSystem;

  # A derivation whose builder is the sandbox's shell, which stops at the first
  # command that fails.
  script = name: attrs: text: derivation ({
    inherit name system;
    builder = "/bin/sh";
    args = [ "-e" "-c" text ];
  } // attrs);

  # The same with a hash that the output must have.
  fixed = name: mode: algorithm: hash: script name {
    outputHashMode = mode;
    outputHashAlgo = algorithm;
    outputHash = hash;
  };

  # A case with one derivation.
  case = why: build: { inherit why; build = [ build ]; };

  # n numbers from 1.
  upTo = n: builtins.genList (i: i + 1) n;

  words = builtins.concatStringsSep " ";
}
