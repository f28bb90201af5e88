# What a builder sees of the machine, and what it can do to it.
with import ./lib.nix;
let
  # Tries commands and writes down which of them work.
  tries = name: commands: script name { } ''
    set +e
    : > $out
    ${builtins.concatStringsSep "\n" (map (c: "( ${c} ) > /dev/null 2>&1 < /dev/null; echo \"$?\" >> $out") commands)}
    true
  '';
in
{
  identity = case "user, group, host name, umask, limits" (script "identity" { } ''
    { id -u; id -g; id -G; hostname; umask; ulimit -c; cat /etc/passwd /etc/group /etc/hosts; } > $out
    grep -E '^(Uid|Gid|Groups|NoNewPrivs|Seccomp|CapEff|CapPrm|CapInh|CapAmb|SigBlk):' /proc/self/status >> $out
  '');

  places = case "directories and their modes" (script "places" { } ''
    { ls -A / /bin /build /tmp; pwd; for d in /build /tmp /nix/store; do stat -c '%a' $d; done; } > $out
  '');

  devices = case "the devices there are, and that they work" (script "devices" { } ''
    cd /dev; ls | grep -v kvm > $out
    echo x > null; head -c 3 zero | wc -c >> $out; head -c 5 urandom | wc -c >> $out
    { echo x > full; } 2>/dev/null || echo full >> $out
    for l in fd stdin stdout stderr; do readlink $l >> $out; done; echo shared > shm/f; cat shm/f >> $out
  '');

  network = case "only the loopback interface, and it is up" (script "network" { } ''
    tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' > $out
    ifconfig lo | grep -oE 'addr:[0-9.]+|UP|RUNNING' >> $out
  '');

  processes = case "no process but the builder's own" (script "processes" { } "set -- /proc/[0-9]*; echo $# > $out; echo $$ >> $out; cat /proc/1/comm >> $out");

  standard-input = case "there is nothing to read, and no terminal to ask" (script "standard-input" { } "cat > $out; readlink /proc/self/fd/0 >> $out; ls /proc/self/fd | wc -l >> $out; tty >> $out || true");

  forbidden = case "what only the machine's owner may do" (tries "forbidden" [
    "mount -t tmpfs none /tmp" "umount /proc" "hostname other" "mknod /tmp/d c 1 3" "chown 0 /build" "chroot / true"
    "echo x > /proc/sys/kernel/hostname" "ip link set lo down" "date -s 2000-01-01" "nice -n -5 true" "dmesg" "swapoff -a" "reboot -f"
  ]);

  set-id = case "no program can be given another user's rights" (tries "set-id" [
    ": > f; chmod 4755 f" ": > f; chmod 2755 f" ": > f; chmod u+s f" "mkdir d; chmod g+s d" ": > f; chmod 755 f" ": > f; chmod 1755 f"
  ]);

  extra-directory = {
    why = "a directory of the machine under another name, and a file, and one that may be missing";
    build = [ (script "extra-directory" { } "cat /extra/dir/note /extra/file > $out; test ! -e /extra/none") ];
    options.sandbox-paths = "/bin/sh=@busybox@ /extra/dir=@shared@ /extra/file=@shared@/note /extra/none=@shared@/none?";
  };

  extra-missing = {
    why = "a directory of the machine that must be there and is not";
    build = [ (script "extra-missing" { } "echo x > $out") ];
    options.sandbox-paths = "/bin/sh=@busybox@ /extra=@shared@/none";
    exit = [ 1 100 ];
    says = [ "none" ];
  };

  build-directory-elsewhere = {
    why = "another name for the build directory";
    build = [ (script "build-directory-elsewhere" { } "pwd > $out; echo $NIX_BUILD_TOP $TMPDIR >> $out; echo x > x; ls -A /elsewhere/build >> $out") ];
    options.sandbox-build-dir = "/elsewhere/build";
  };

  memory-limit = {
    why = "the size of /dev/shm";
    build = [ (script "memory-limit" { } "df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d' ' -f2 > $out") ];
    options.sandbox-dev-shm-size = "8m";
  };

  no-sandbox-wanted = {
    why = "__noChroot is refused in a full sandbox";
    build = [ (script "no-sandbox-wanted" { __noChroot = true; } "echo x > $out") ];
    exit = [ 1 100 ];
    says = [ "__noChroot" ];
  };

  machine = case "the name of the machine's kind" (script "machine" { } "uname -s -m > $out; uname -n >> $out");
}
