{
  description = "A flake without inputs";
  outputs = { self }:
    let all = import ./clients.nix; in
    {
      packages.@system@ = { default = all.hello; inherit (all) hello dep tool shell; };
      devShells.@system@.default = all.shell;
      apps.@system@.default = { type = "app"; program = "${all.tool}/bin/tool"; };
      answer = 42;
    };
}
