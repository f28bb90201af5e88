# The builders that are measured alone as well, by the shell that runs them in
# the sandbox.
{ n }:
{
  files = ''
    mkdir $out; d=0
    while [ $d -lt 100 ]; do
      mkdir $out/$d; i=0
      while [ $i -lt ${toString (n / 100)} ]; do echo $d $i > $out/$d/$i; i=$((i+1)); done
      d=$((d+1))
    done
  '';

  # n megabytes in eight files.
  large = ''
    mkdir $out
    for i in 1 2 3 4 5 6 7 8; do { echo $i; cat $seed; } > $out/$i; done
  '';

  # n megabytes, nearly, of the output's own hash without its last character: at every
  # byte there are 32 that could be a hash.
  hashes = ''
    text=''${out##*/}; text=''${text%%-*}; text=''${text%?}
    i=0; while [ $i -lt 15 ]; do text=$text$text; i=$((i+1)); done
    i=0; while [ $i -lt ${toString n} ]; do printf %s $text; i=$((i+1)); done > $out
  '';
}
