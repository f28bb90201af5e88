package main

import (
	"fmt"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/rpc"
	"github.com/kilnbuild/kiln/sandbox"
)

// serviceFacts are what the executor service knows of the settings.
type serviceFacts struct {
	c      *configuration
	access rpc.Access
	limits *kilnv1.Limits
}

func (c *configuration) serviceFacts() (*serviceFacts, error) {
	access, err := serviceAccess(c.settings.ServiceRoles)
	if err != nil {
		return nil, err
	}
	return &serviceFacts{c, access, rpc.LimitsMessage(c.attemptSettings().Limits)}, nil
}

// capabilities are what this machine is at the moment.
func (f *serviceFacts) capabilities(enforced []string) *kilnv1.Capabilities {
	s := f.c.settings
	caps := &kilnv1.Capabilities{
		Version: version, Systems: append([]string{s.System}, s.ExtraPlatforms...), Features: s.SystemFeatures, Slots: uint32(s.MaxJobs),
		Limits: f.limits, EnforcedLimits: enforced, Sandbox: s.Sandbox == conf.SandboxOn || f.c.local.Chroot(), Processors: uint32(runtime.NumCPU()),
	}
	var fs syscall.Statfs_t
	if syscall.Statfs(f.c.local.Real, &fs) == nil {
		caps.FreeBytes = int64(fs.Bavail) * int64(fs.Bsize)
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(text), " ")
		caps.Load, _ = strconv.ParseFloat(first, 64)
	}
	return caps
}

// enforcedLimits are the limits that this machine can enforce.
func enforcedLimits() (enforced []string, err error) {
	launcher := sandbox.NewLauncher()
	for _, of := range launcher.EnforcedLimits() {
		enforced = append(enforced, string(of))
	}
	return enforced, launcher.Close()
}

// serviceAccess reads the setting service-roles.
func serviceAccess(roles map[string]string) (rpc.Access, error) {
	a := rpc.Access{Users: make(map[uint32]kilnv1.Role), Certificates: make(map[string]kilnv1.Role)}
	for who, text := range roles {
		role, err := rpc.ParseRole(text)
		if err != nil {
			return a, fmt.Errorf("setting 'service-roles': %w", err)
		}
		kind, name, _ := strings.Cut(who, ":")
		switch {
		case who == "users":
			a.OtherUsers = role
		case who == "plaintext":
			a.Plaintext = role
		case kind == "cert" && name != "":
			a.Certificates[name] = role
		case kind == "user" && name != "":
			uid, err := userID(name)
			if err != nil {
				return a, fmt.Errorf("setting 'service-roles': %w", err)
			}
			a.Users[uid] = role
		default:
			return a, fmt.Errorf("setting 'service-roles': '%s' is neither user:NAME, users, cert:NAME nor plaintext", who)
		}
	}
	return a, nil
}

func userID(name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err
}
