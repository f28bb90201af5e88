package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/kilnbuild/kiln/executor"
	"github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/executor/builtin"
	"github.com/kilnbuild/kiln/executor/hook"
	"github.com/kilnbuild/kiln/executor/substitute"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/sandbox"
	"github.com/kilnbuild/kiln/store/binarycache"
	"github.com/kilnbuild/kiln/store/local"
	"golang.org/x/net/http/httpproxy"
)

// executor wires an executor for a store together. The function that it returns
// closes it and everything that was made for it, and waits for a collection that is
// running to end, unless ctx ends before.
func (c *configuration) executor(ctx context.Context, st *local.Store, verbose int, showsLogs bool) (*executor.Executor, func() error, error) {
	machine, err := c.machine(st)
	if err != nil {
		return nil, nil, err
	}
	passOn, err := c.buildHook(verbose)
	if err != nil {
		return nil, nil, err
	}
	subs := newSubstituters()
	set, done, err := subs.use(c)
	if err != nil {
		return nil, nil, err
	}
	settings := c.executorSettings(passOn, set, showsLogs)
	auto := c.autoCollect(st, verbose)
	if auto != nil {
		settings.Use = auto.Use
	}
	x := executor.New(st, machine, settings)
	return x, func() error {
		err := x.Close()
		if passOn != nil {
			passOn.Close()
		}
		done()
		if auto != nil {
			// Many short builds would otherwise each begin one that never gets anywhere.
			auto.Wait(ctx)
			auto.Close()
		}
		return errors.Join(err, subs.Close(), machine.Launcher.Close())
	}, nil
}

// machine is this machine, as far as builds use it. Its launcher is the caller's.
func (c *configuration) machine(st *local.Store) (*build.Machine, error) {
	if err := sandbox.Capable(); err != nil {
		return nil, err
	}
	users, err := build.NewUsers(c.usersConfig())
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the file of this program, which runs builtin builders: %w", err)
	}
	return &build.Machine{Store: st, Launcher: sandbox.NewLauncher(), Users: users, Self: self}, nil
}

func (c *configuration) executorSettings(passOn *hook.Pool, set *substitute.Set, showsLogs bool) executor.Settings {
	s := c.settings
	return executor.Settings{
		MaxJobs:              s.MaxJobs,
		KeepGoing:            s.KeepGoing,
		System:               s.System,
		ExtraPlatforms:       s.ExtraPlatforms,
		SystemFeatures:       s.SystemFeatures,
		LogTail:              !showsLogs,
		ExperimentalFeatures: s.ExperimentalFeatures,
		BuildHook:            passOn,
		PollInterval:         s.PollInterval,
		Substituters:         set,
		MaxSubstitutionJobs:  s.MaxSubstitutionJobs,
		Fallback:             s.Fallback,
		Attempt:              c.attemptSettings(),

		AlwaysAllowSubstitutes: s.AlwaysAllowSubstitutes,
	}
}

func (c *configuration) attemptSettings() build.Settings {
	s := c.settings
	a := build.Settings{
		// What is built in a chroot store finds its inputs by their logical paths
		// only in a sandbox.
		Sandbox:            sandboxMode(s.Sandbox, c.local.Chroot()),
		SandboxFallback:    s.SandboxFallback && s.Overridden("sandbox-fallback"),
		SandboxBuildDir:    s.SandboxBuildDir,
		SandboxShmSize:     s.SandboxDevShmSize,
		BuildDir:           c.buildDir(),
		System:             s.System,
		Cores:              s.Cores,
		FilterSyscalls:     s.FilterSyscalls,
		AllowNewPrivileges: s.AllowNewPrivileges,
		ImpersonateLinux26: s.ImpersonateLinux26,
		KeepFailed:         s.KeepFailed,
		UseCgroups:         s.UseCgroups,
		LogLines:           s.LogLines,
		DiscardLog:         !s.KeepBuildLog,
		ImpureEnv:          s.ImpureEnv,

		AllowedImpureHostDeps: s.AllowedImpureHostDeps,
		Environ:               os.LookupEnv,
		Fetch:                 c.fetchSettings(),
		Hooks:                 c.hooks(),
		UserNetwork:           c.userNetwork(),
		NestedNetwork:         nestedNetwork(s.RecursiveNixFixedOutput),
		Limits: nix.Limits{
			Memory: int64(s.BuildMemoryMax), Processes: int64(s.BuildProcessesMax), CPUWeight: uint64(s.BuildCPUWeight), CPUQuota: uint64(s.BuildCPUQuota),
			Timeout: s.Timeout, MaxSilent: s.MaxSilentTime, Log: int64(s.MaxBuildLogSize),
			Output: int64(s.BuildOutputMax), BuildDir: int64(s.BuildDirMax), Require: s.RequireLimits,
		},
	}
	if len(s.SecretKeyFiles) > 0 {
		a.Sign = c.sign
	}
	for _, p := range s.SandboxPaths {
		a.SandboxPaths = append(a.SandboxPaths, build.SandboxPath(p))
	}
	return a
}

// sign signs a fingerprint of what was built with every key of secret-key-files.
func (c *configuration) sign(fingerprint string) ([]string, error) {
	var all []string
	for _, name := range c.settings.SecretKeyFiles {
		k, err := binarycache.ReadSecretKey(name)
		if err != nil {
			return nil, err
		}
		all = append(all, k.Sign(fingerprint))
	}
	return all, nil
}

// fetchSettings are for builtin:fetchurl, which has the proxies that our own
// environment names.
func (c *configuration) fetchSettings() build.FetchSettings {
	s := c.settings
	proxies := httpproxy.FromEnvironment()
	return build.FetchSettings{
		FetchSettings: builtin.FetchSettings{
			HashedMirrors:  s.HashedMirrors,
			Attempts:       s.DownloadAttempts,
			ConnectTimeout: s.ConnectTimeout,
			StalledTimeout: s.StalledDownloadTimeout,
			Retry: builtin.RetrySettings{
				Delay: s.RetryDelay, RateLimited: s.RetryDelayRateLimited, Max: s.RetryMaxDelay, Jitter: s.RetryJitter,
			},
			AllowLoopback: s.AllowLoopbackDownloads,
			Proxy:         builtin.ProxySettings{HTTP: proxies.HTTPProxy, HTTPS: proxies.HTTPSProxy, Not: proxies.NoProxy},
			UserAgent:     strings.TrimSpace("kiln/" + version + " " + s.UserAgentSuffix),
		},
		NetrcFile:   s.NetrcFile,
		SSLCertFile: s.SSLCertFile,
	}
}

func (c *configuration) hooks() build.Hooks {
	s := c.settings
	h := build.Hooks{PreBuild: s.PreBuildHook, PostBuild: s.PostBuildHook, Timeout: s.HookTimeout}
	if s.RunDiffHook {
		h.Diff = s.DiffHook
	}
	if h.PostBuild != "" {
		var config strings.Builder
		for e := range s.All() {
			// By default it is a program of this release, which older ones cannot run.
			own := e.Own || e.Name == "build-hook" && e.Source.Kind == conf.FromDefault
			if !own && e.Status == conf.Honoured {
				fmt.Fprintf(&config, "%s = %s\n", e.Name, e.Value)
			}
		}
		h.Config = config.String()
	}
	return h
}

func (c *configuration) usersConfig() build.UsersConfig {
	s := c.settings
	return build.UsersConfig{
		Group: s.BuildUsersGroup, StateDir: c.dirs.State,
		Auto: s.AutoAllocateUIDs, FirstID: int(s.StartID), IDCount: int(s.IDCount),
	}
}

func nestedNetwork(f conf.NestedFetch) nix.NetworkPolicy {
	switch f {
	case conf.NestedFetchAllow:
		return nix.NetworkAllowed
	case conf.NestedFetchRefuse:
		return nix.NetworkRefused
	}
	return nix.NetworkOff
}

func sandboxMode(m conf.SandboxMode, chroot bool) build.SandboxMode {
	switch {
	case chroot || m == conf.SandboxOn:
		return build.SandboxRequired
	case m == conf.SandboxRelaxed:
		return build.SandboxRelaxed
	}
	return build.SandboxOff
}
