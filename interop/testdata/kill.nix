# Derivations that take their time in one phase each, and tell in a directory of
# the machine how far they are.
let
  build = name: attrs: text: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-e" "-c" text ];
  } // attrs);
  numbers = n: builtins.genList (i: toString i) n;
in {
  # Many inputs, each of which is mounted. (Directories: files may be cheaper.)
  staging = (build "staging" {
    inputs = map (n: builtins.path { name = "input-${n}"; path = ./kill-input; }) (numbers 200);
  } "echo > /shared/started; echo $inputs > $out").drvPath;

  # A builder with children that waits until it may go on.
  running = (build "running" { } ''
    mkdir $out; echo > /shared/started
    sleep 600 &
    (trap "" HUP TERM INT; sleep 600) &
    i=0; while [ ! -e /shared/go ] && [ $i -lt 3000 ]; do sleep 0.1; i=$((i+1)); done
    echo done > $out/done
  '').drvPath;

  # Much to hash, to scan and to give its final form.
  registering = (build "registering" { outputs = [ "out" "files" ]; } ''
    head -c 32000000 /dev/zero > $out
    mkdir $files; i=0; while [ $i -lt 2000 ]; do echo $i > $files/$i; i=$((i+1)); done
    echo > /shared/started
  '').drvPath;

  # Something new to build after the n-th kill.
  next = map (n: (build "next-${n}" { } "echo ${n} > $out").drvPath) (numbers 200);
}
