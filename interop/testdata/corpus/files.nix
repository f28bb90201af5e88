# What may be in an output, and what becomes of it.
with import ./lib.nix;
{
  permissions = case "only the owner's execute bit survives" (script "permissions" { } ''
    mkdir $out; cd $out
    for mode in 644 600 444 400 755 700 555 500 744 711 100 666 777 1644 654 645; do
      echo $mode > f$mode; chmod $mode f$mode
    done
    for mode in 755 700 555 500 775 777 1777; do mkdir d$mode; echo x > d$mode/x; chmod $mode d$mode; done
  '');

  unreadable = case "files that even their owner may not read" (script "unreadable" { } ''
    mkdir $out; echo x > $out/f; mkdir $out/d; echo y > $out/d/y; chmod 0 $out/f; chmod 311 $out/d
  '') // { root = "Nix cannot read such a file without root's rights"; };

  times = case "all times become the same" (script "times" { } ''
    mkdir -p $out/d; cd $out
    touch -d @0 epoch; touch -d @4102444800 late; touch -d @1000000000 d; ln -s nowhere link; touch .
  '');

  hard-links = case "hard links within an output" (script "hard-links" { } ''
    mkdir -p $out/a $out/b; echo same > $out/a/1; ln $out/a/1 $out/a/2; ln $out/a/1 $out/b/3
  '');

  symlinks = case "symlinks of all kinds, none of which is followed" (script "symlinks" { } ''
    mkdir $out; cd $out
    ln -s /etc/passwd absolute; ln -s ../../../etc up; ln -s . here; ln -s self self
    ln -s missing dangling; ln -s "with blank" blank; ln -s $out/here own; ln -s "$(printf 'new\nline')" newline
    ln -s "$(head -c 1000 /dev/zero | tr '\0' x)" long
  '');

  names = case "names that are easily mistaken" (script "names" { } ''
    mkdir $out; cd $out
    echo 1 > ' '; echo 2 > '-n'; echo 3 > 'a b'; echo 4 > "$(printf 'a\nb')"; echo 5 > '*'; echo 6 > '\'; echo 7 > '...'
    echo 8 > '"'; echo 9 > "'"; echo 10 > '~nix~case~hack~1'; echo 11 > ')'; echo 12 > 'ü'; echo 13 > "$(printf '\303\050')"
    echo 14 > "$(printf '\001\177')"; echo 15 > Case; echo 16 > case; echo 17 > "$(head -c 255 /dev/zero | tr '\0' n)"
  '');

  order = case "the order of entries is by bytes" (script "order" { } ''
    mkdir $out; cd $out
    for n in b a ab a.b a-b a_b A B 0 10 9 é z Z; do echo $n > "$n"; done; mkdir a0 c; echo > a0/x; echo > c.x; echo > c/x
  '');

  many = case "a directory with two thousand entries" (script "many" { } ''
    mkdir $out; cd $out; i=0; while [ $i -lt 2000 ]; do echo $i > file-$i; i=$((i+1)); done
  '');

  deep = case "directories within directories" (script "deep" { } ''
    mkdir $out; cd $out; i=0; while [ $i -lt 60 ]; do mkdir level; cd level; echo $i > here; i=$((i+1)); done
  '');

  large = case "a file that no buffer holds" (script "large" { } ''
    yes "some text that fills a file" | head -c 12000001 > $out
  '');

  sparse = case "a file with a hole" (script "sparse" { } ''
    echo start > $out; dd of=$out bs=1 seek=3000000 count=3 if=/dev/zero 2>/dev/null; echo end >> $out
    echo written
  '');

  built-in-place-of-another-kind = case "an output that was a directory before it was a file" (script "changed-kind" { } ''
    mkdir -p $out/x; rm -r $out; echo x > $out
  '');

  moved-from-the-build-directory = case "a tree that was made elsewhere" (script "moved" { } "mkdir -p t/u; echo x > t/u/v; chmod 700 t; mv t $out");

  moved-from-tmp = case "the same from /tmp and from memory" (script "moved-tmp" { } "mkdir /tmp/t; echo x > /dev/shm/x; mv /dev/shm/x /tmp/t/x; mv /tmp/t $out");
}
