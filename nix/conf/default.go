package conf

import (
	"fmt"
	"strings"
)

// The defaults that depend on the machine.

var architectures = map[string]string{
	"386": "i686", "amd64": "x86_64", "arm": "armv7l", "arm64": "aarch64",
	"loong64": "loongarch64", "ppc64le": "powerpc64le",
}

func defaultSystem(e Environment) string {
	arch, ok := architectures[e.Arch]
	if !ok {
		arch = e.Arch
	}
	return arch + "-" + e.OS
}

func defaultExtraPlatforms(e Environment) string {
	switch defaultSystem(e) {
	case "x86_64-linux":
		var all []string
		if !e.wsl1() {
			all = append(all, "i686-linux")
		}
		for level := range e.cpuLevel() {
			all = append(all, fmt.Sprintf("x86_64-v%d-linux", level+1))
		}
		return strings.Join(all, " ")
	case "aarch64-darwin":
		if e.exists("/Library/Apple/usr/libexec/oah/libRosettaRuntime") {
			return "x86_64-darwin"
		}
	}
	return ""
}

func defaultSystemFeatures(e Environment) string {
	all := "benchmark big-parallel nixos-test"
	if e.OS == "linux" {
		all += " uid-range"
		if e.ReadWrite != nil && e.ReadWrite("/dev/kvm") {
			all += " kvm"
		}
	}
	if e.AppleVirt {
		all += " apple-virt"
	}
	return all
}

func defaultSandbox(e Environment) string {
	if e.OS == "linux" {
		return string(SandboxOn)
	}
	return string(SandboxOff)
}

// What a macOS sandbox must let through for anything to run.
func defaultSandboxPaths(e Environment) string {
	if e.OS != "darwin" {
		return ""
	}
	return "/System/Library/Frameworks /System/Library/PrivateFrameworks /bin/bash /bin/sh /private/tmp /private/var/tmp /usr/lib"
}

func defaultImpureHostDeps(e Environment) string {
	if e.OS != "darwin" {
		return ""
	}
	return "/System/Library /bin/sh /dev /usr/lib"
}

func defaultBuildUsersGroup(e Environment) string {
	if e.root() {
		return "nixbld"
	}
	return ""
}

func defaultDropGroups(e Environment) string { return fmt.Sprint(e.root()) }

func defaultStartID(e Environment) string {
	if e.OS == "linux" {
		return "872415232" // 0x34000000
	}
	return "56930"
}

func defaultIDCount(e Environment) string {
	if e.OS == "linux" {
		return "8388608" // 128 builds with 65536 ids each
	}
	return "128"
}

func defaultSQLiteWAL(e Environment) string { return fmt.Sprint(!e.wsl1()) }

func defaultNetrcFile(e Environment) string { return e.confDir() + "/netrc" }

func defaultBuilders(e Environment) string { return "@" + e.confDir() + "/machines" }

func defaultSSLCertFile(e Environment) string {
	for _, name := range []string{
		"/etc/ssl/certs/ca-certificates.crt",
		"/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt",
	} {
		if e.exists(name) {
			return name
		}
	}
	return ""
}
