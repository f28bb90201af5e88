# Structured attributes. The builder reads them at their place in the sandbox:
# before 2.24 the variables that name the files gave a path outside of it.
with import ./lib.nix;
let
  # Copies what the builder is given.
  dump = name: attrs: script name ({ __structuredAttrs = true; } // attrs) ''
    mkdir ${builtins.placeholder "out"}
    cd ${builtins.placeholder "out"}
    cat /build/.attrs.json > json
    cat /build/.attrs.sh > sh
    tr '\0' '\n' < /proc/self/environ | cut -d= -f1 | grep -v '^_$' | sort > names
  '';
in
{
  values = case "every kind of value" (dump "values" {
    text = "a 'quoted' \"text\"\nin two lines\\ $HOME `id`";
    empty = "";
    number = 42;
    negative = -7;
    large = 1099511627776;
    fraction = 2.5;
    whole-fraction = 3.0;
    yes = true;
    no = false;
    nothing = null;
    letters = "äöü€";
  });

  lists-and-sets = case "lists, sets, and both within each other" (dump "lists-and-sets" {
    list = [ "a b" "c'd" 3 true false null ];
    emptyList = [ ];
    set = { x = "1"; y = "it's"; "z z" = 3; };
    emptySet = { };
    nested = { deep = { deeper = [ 1 [ 2 ] ]; }; };
    listOfSets = [ { a = 1; } ];
    "no-identifier" = "left out of the shell's file";
    "9digit" = "too";
    _fine = "kept";
  });

  several-outputs = case "the outputs stand in the file" (script "structured-outputs" { __structuredAttrs = true; outputs = [ "out" "dev" ]; } ''
    grep -o '"outputs":{[^}]*}' /build/.attrs.json | sed 's,/nix/store/[a-z0-9]*,PATH,g' > ${builtins.placeholder "out"}
    echo ${builtins.placeholder "out"} > ${builtins.placeholder "dev"}
  '');

  inputs = case "inputs in nested values are inputs all the same" (
    let input = script "structured-input" { } "echo content > $out";
    in script "structured-inputs" { __structuredAttrs = true; a.b.c = [ input ]; } ''
      cat ${input} > ${builtins.placeholder "out"}
      grep -o '/nix/store/[a-z0-9]*-structured-input' /build/.attrs.json >> ${builtins.placeholder "out"}
    ''
  );

  fixed-output = case "a fixed output with structured attributes" (script "structured-fixed" {
    __structuredAttrs = true;
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "fixed\n";
  } "echo fixed > ${builtins.placeholder "out"}");
}
