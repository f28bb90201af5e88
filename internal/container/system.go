package main

import "runtime"

// system is this machine's, as Nix calls it.
func system() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64-linux"
	}
	return "x86_64-linux"
}
