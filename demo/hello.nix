# What `make demo` builds, as Nix would say it. The JSON files beside it are this
# for each system, so that the demo needs no Nix; a test holds them to it.
{ system }:
derivation {
  name = "kiln-demo";
  inherit system;
  builder = "/bin/sh";
  args = [ "-e" "-c" (builtins.readFile ./hello.sh) ];
}
