package main

import (
	"github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/nix/conf"
)

func (c *configuration) userNetwork() build.UserNetworkSettings {
	mode := map[conf.UserNetwork]build.UserNetworkMode{
		conf.UserNetworkAuto: build.UserNetworkAuto, conf.UserNetworkRequire: build.UserNetworkRequire, conf.UserNetworkOff: build.UserNetworkOff,
	}[c.settings.UserNetwork]
	return build.UserNetworkSettings{Mode: mode, Program: c.settings.UserNetworkProgram}
}
