# Derivations that need others, and sources.
with import ./lib.nix;
let
  link = n: if n == 0 then script "chain-0" { } "echo start > $out" else script "chain-${toString n}" { previous = link (n - 1); } "cat $previous > $out; echo $previous >> $out";
in
{
  chain = case "ten derivations in a row" (link 10);

  diamond = case "one derivation that is needed in two ways is built once" (
    let
      base = script "diamond-base" { } "echo base > $out";
      side = n: script "diamond-${n}" { inherit base; } "cat $base > $out; echo ${n} >> $out";
    in script "diamond-top" { left = side "left"; right = side "right"; } "cat $left $right > $out"
  );

  wide = case "a hundred inputs, with files and directories" (script "wide" {
    inputs = map (n: if n / 4 * 4 == n then script "wide-input-${toString n}" { } "mkdir $out; echo ${toString n} > $out/n" else builtins.toFile "wide-${toString n}" "${toString n}\n") (upTo 100);
  } "for i in $inputs; do cat $i $i/n 2>/dev/null || true; done > $out");

  source-tree = case "a tree from outside the store" (script "from-source" { source = builtins.path { path = ./tree; name = "source"; }; } ''
    mkdir $out
    cd $source; find . | sort > $out/list; cat sub/text > $out/text; test -x run.sh; ./run.sh > $out/ran; readlink link > $out/link
  '');

  text-with-references = case "a text that refers to outputs and to other texts" (
    let
      input = script "referred" { } "echo referred > $out";
      text = builtins.toFile "text" "plain";
      more = builtins.toFile "more" "more than ${text}";
    in script "reads-text" { inherit input more; } "cat $more $input > $out; cat $(cut -d' ' -f3 $more) >> $out"
  );

  closure-is-there = case "what an input refers to is in the sandbox too" (
    let
      inner = script "inner" { } "echo inner > $out";
      outer = script "outer" { inherit inner; } "echo $inner > $out";
    in script "through" { inherit outer; } "cat $(cat $outer) > $out"
  );

  nothing-else-is-there = case "what is no input is not in the sandbox" (
    let
      forgotten = script "forgotten" { } "echo x > $out";
      user = script "forgets" { inherit forgotten; } "wc -c < $forgotten > $out";
    in script "alone" { inherit user; } "there=$(ls /nix/store | cut -c34- | sort); echo \"$there\" > $out"
  );

  input-fails = {
    why = "the failure of an input is the failure of what needs it";
    build = [ (script "needs-broken" { broken = script "broken" { } "echo no; exit 3"; } "echo x > $out") ];
    exit = [ 1 100 ];
    says = [ "broken" ];
  };

  some-fail = {
    why = "keep-going builds what can be built, and says what cannot";
    build = [
      (script "some-a" { } "exit 1")
      (script "some-b" { } "sleep 0.3; echo b > $out")
      (script "some-c" { needs = script "some-c-input" { } "sleep 0.2; echo i > $out"; } "cat $needs > $out")
    ];
    flags = [ "--keep-going" ];
    exit = [ 1 100 ];
    says = [ "some-a" ];
  };

  c-programs = {
    why = "a library, a program that is linked with it, and a run of the program, by the machine's compiler";
    host = "the compiler is in the machine's root directory";
    build =
      let
        compiled = name: attrs: text: script name (attrs // { PATH = "/bin:/usr/bin"; }) text;
        library = compiled "greeting-library" { outputs = [ "out" "dev" ]; passAsFile = [ "code" "header" ]; header = "const char *greeting(int n);\n"; code = ''
          #include <greeting.h>
          const char *greeting(int n) { return n % 2 ? "good day" : "good evening"; }
        ''; } ''
          mkdir -p $out/lib $dev/include
          cp $headerPath $dev/include/greeting.h; cp $codePath greeting.c
          gcc -O2 -fPIC -I$dev/include -shared -Wl,-soname,libgreeting.so.1 -o $out/lib/libgreeting.so.1 greeting.c
          ln -s libgreeting.so.1 $out/lib/libgreeting.so
          ln -s $out/lib $dev/lib
        '';
        program = compiled "greet" { library = library.out; dev = library.dev; passAsFile = [ "code" ]; code = ''
          #include <stdio.h>
          #include <stdlib.h>
          #include <greeting.h>
          int main(int argc, char **argv) {
            for (int i = 1; i < argc; i++) printf("%s, %s\n", greeting(atoi(argv[i])), argv[i]);
            return 0;
          }
        ''; } ''
          cp $codePath main.c; mkdir -p $out/bin
          gcc -O2 -I$dev/include -o $out/bin/greet main.c -L$library/lib -lgreeting -Wl,-rpath,$library/lib
        '';
      in [ (compiled "greeted" { inherit program; } "$program/bin/greet 1 2 3 > $out; cat $out") ];
    options.sandbox-paths = "/bin/sh=@busybox@ /usr /lib=/usr/lib /lib64=/usr/lib64?";
  };
}
