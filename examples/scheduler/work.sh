#!/bin/sh
# work.sh STORE: writes six derivations, which all need one file, into a store, and prints their paths: something for
# schedulers to place. `kiln` is taken from PATH.
set -eu
store=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
echo "brought from far away" > "$dir/greeting"
source=$(kiln store add --store "$store" "$dir/greeting")
for i in 1 2 3 4 5 6; do
	kiln derivation add --store "$store" <<EOF
{"name": "work-$i", "version": 4, "system": "$(uname -m)-linux", "builder": "/bin/sh",
 "args": ["-c", "echo work $i; sleep 1.5; read greeting < $source; echo \"\$greeting, $i\" > \$out"],
 "env": {"name": "work-$i", "out": "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"}, "inputs": {"srcs": ["${source##*/}"], "drvs": {}}, "outputs": {"out": {"method": "nar", "hashAlgo": "sha256"}}}
EOF
done
