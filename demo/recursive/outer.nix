# The derivation of the second demo. Its builder has real Nix, and a C compiler of this machine, and does what a person
# would do: it changes a derivation, builds it, runs it and looks at it.
{ nix }:
derivation {
  name = "recursive-hello";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-e" ./outer.sh ];
  requiredSystemFeatures = [ "recursive-nix" ];
  nix = builtins.path { path = nix; name = "nix"; };
  hello = builtins.path { path = ./hello; name = "hello-source"; };
}
