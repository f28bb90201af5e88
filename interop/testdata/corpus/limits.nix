# Limits on time and on talk.
with import ./lib.nix;
{
  time = {
    why = "a builder that takes too long, though it talks";
    build = [ (script "time" { } "while true; do echo tick; sleep 0.3; done") ];
    options.timeout = "2";
    exit = 101;
    says = [ "timed out after 2 seconds" ];
    ignore.log = "how many lines fit into the time is up to the machine";
  };

  silence = {
    why = "a builder that says nothing for too long";
    build = [ (script "silence" { } "echo start; sleep 600") ];
    options.max-silent-time = "2";
    exit = 101;
    says = [ "timed out after 2 seconds" ];
  };

  not-silent = {
    why = "a builder that talks just often enough";
    build = [ (script "not-silent" { } "for i in 1 2 3 4; do echo $i; sleep 0.8; done; echo x > $out") ];
    options = { max-silent-time = "3"; timeout = "60"; };
  };

  deaf = {
    why = "a builder that takes no signal, with a child that does not either";
    build = [ (script "deaf" { } "trap '' TERM INT HUP QUIT; (trap '' TERM INT HUP QUIT; sleep 600) & sleep 600") ];
    options.timeout = "2";
    exit = 101;
    says = [ "timed out" ];
  };

  flood = {
    why = "a builder that says more than it may";
    build = [ (script "flood" { } "yes flood") ];
    options.max-build-log-size = "50000";
    exit = [ 1 100 ];
    says = [ "50000 bytes" ];
    ignore.log = "how much of it came through when it was cut off is chance";
  };

  much-talk = case "a log of a megabyte, with long lines, without newlines, with bytes that are no text" (script "much-talk" { } ''
    i=0; while [ $i -lt 5000 ]; do echo "line $i of many, some of them on standard error"; i=$((i+1)); done
    head -c 500000 /dev/zero | tr '\0' l; printf '\nno end \001\377\033[31mred\033[0m\rback\r\n\n\tx'; echo done > $out
  '');

  both-streams = case "standard output and standard error in the order of writing" (script "both-streams" { } ''
    for i in 1 2 3; do echo out $i; echo err $i >&2; done; echo x > $out
  '');

  silent = case "a builder without a word" (script "silent" { } "echo x > $out");

  left-behind = case "children that a builder leaves are killed, and hold nothing up" (script "left-behind" { } ''
    (trap "" HUP TERM; sleep 600) & sleep 600 & setsid sleep 600 & sleep 0.1; echo x > $out
  '');
}
