#!/bin/sh
# client.sh DIR: copies this machine's Nix with the libraries that it needs, and the loader, to be run from anywhere; and
# the expressions that the test of containers builds with it.
set -eu
dir=$1
mkdir -p "$dir/bin" "$dir/lib"
nix=$(command -v nix)
ldd "$nix" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*ld[^ ]*\) .*/\1/p' | sort -u | xargs -I{} cp -L {} "$dir/lib"
cp -L "$nix" "$dir/lib/nix"
loader=$(basename "$(ldd "$nix" | sed -n 's/^[[:space:]]*\(\/[^ ]*ld[^ ]*\) .*/\1/p')")
for name in nix nix-build nix-instantiate nix-store; do
	printf '#!/bin/sh\nexec "${0%%/bin/*}/lib/%s" --argv0 %s --library-path "${0%%/bin/*}/lib" "${0%%/bin/*}/lib/nix" "$@"\n' "$loader" "$name" >"$dir/bin/$name"
	chmod +x "$dir/bin/$name"
done
cp demo/hello.nix demo/hello.sh "$dir"
cat >"$dir/outer.nix" <<'EOF'
let nix = builtins.path { path = /client; name = "nix"; };
in derivation {
  name = "outer";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  requiredSystemFeatures = [ "recursive-nix" ];
  args = [ "-ec" ''
    export HOME=$NIX_BUILD_TOP NIX_CONF_DIR=$NIX_BUILD_TOP PATH=${nix}/bin
    inner=$(nix-build --no-out-link -E 'derivation { name = "inner"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo built inside > $out" ]; }')
    read line < $inner
    echo "outer: $line" > $out
  '' ];
}
EOF
