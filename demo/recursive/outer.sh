# The builder. Nix finds kiln at the socket in NIX_REMOTE.
export PATH=$nix/bin:/usr/bin HOME=$NIX_BUILD_TOP NIX_CONF_DIR=$NIX_BUILD_TOP
echo "experimental-features = nix-command
substituters =" >nix.conf

drv=$(nix-instantiate --argstr greeting "Hello from a build inside a build" $hello/hello.nix 2>/dev/null)
echo "instantiated: $drv"
inner=$(nix-store --realise "$drv" 2>/dev/null)
echo "built:        $inner"
echo "it says:      $("$inner"/bin/hello)"
mkdir "$out"
ln -s "$inner/bin/hello" "$out/hello"
nix path-info -r --json "$inner"
