# A chain of content-addressed derivations, to be built: see README.md.
let
  sh = args: derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; } // args);
  fod = derivation { name = "fod"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo hello > $out" ]; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"; };
  plain = derivation { name = "plain"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo plain > $out" ]; };
  a = sh { name = "a"; outputs = [ "out" "lib" ]; args = [ "-c" "echo a ${fod} ${plain} > $out; echo b > $lib" ]; };
  b = sh { name = "b"; args = [ "-c" "echo ${a} ${a.lib} > $out" ]; };
  c = derivation { name = "c"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo ${b} > $out" ]; };
in { inherit a b c fod; }
