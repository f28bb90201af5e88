# A program in C, with a greeting that whoever builds it can choose.
{ greeting ? "Hello" }:
derivation {
  name = "hello";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  source = ./hello.c;
  inherit greeting;
  args = [ "-e" "-c" ''
    export PATH=/usr/bin
    mkdir -p $out/bin
    gcc -O2 -static -DGREETING="\"$greeting\"" -o $out/bin/hello $source
  '' ];
}
