package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A server is a container with a daemon for both protocols, and its store.
type server struct {
	*suite
	privileges
	name    string
	store   string // volume
	sockets string // volume
}

const serviceSocket = "unix:///run/kiln/kiln.socket"

// experimental is what the jobs need of the settings.
const experimental = "NIX_CONFIG=extra-experimental-features = recursive-nix ca-derivations\nsubstituters ="

// start starts a container, and waits until kiln in it serves.
func (s *suite) start(ctx context.Context, p privileges, more []string, words ...string) (_ *server, err error) {
	v := &server{suite: s, privileges: p, name: s.name()}
	if v.store, err = s.volume(ctx); err != nil {
		return nil, err
	}
	if v.sockets, err = s.volume(ctx); err != nil {
		return nil, err
	}
	s.servers = append(s.servers, v)
	return v, v.again(ctx, more, words...)
}

// again starts a container with the same store.
func (v *server) again(ctx context.Context, more []string, words ...string) error {
	args := slices.Concat([]string{"run", "-d", "--name", v.name}, v.engine.network, v.flags,
		[]string{"-v", v.store + ":/nix", "-v", v.sockets + ":/run/kiln", "-v", v.client + ":/client:ro", "-e", experimental, "-e", "HOME=/run/kiln"},
		more, []string{v.image}, words)
	if out, err := v.engine.docker(ctx, args...); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if err := v.healthy(ctx, v.name, serviceSocket); err != nil {
		v.remove()
		return err
	}
	return nil
}

// healthy waits until kiln in a container takes builds.
func (s *suite) healthy(ctx context.Context, container, socket string) error {
	const patience = 30 * time.Second
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		out, err := s.engine.docker(ctx, "exec", container, "kiln", "health", "--executor", socket)
		if err == nil {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			log, _ := s.engine.docker(ctx, "logs", container)
			return fmt.Errorf("it is not healthy: %w: %s\n%s", err, out, log)
		}
	}
}

// exec runs a program in the container.
func (v *server) exec(ctx context.Context, words ...string) (string, error) {
	return v.engine.docker(ctx, append([]string{"exec", "-e", "HOME=/run/kiln", "-e", "TMPDIR=/run/kiln", "-e", "NIX_REMOTE=daemon", "-e", "NIX_CONF_DIR=/run/kiln", v.name}, words...)...)
}

// remove removes the container.
func (v *server) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	v.engine.docker(ctx, "rm", "-f", v.name)
}

// state gives the exit code of a container that has ended, and its log.
func (v *server) state(ctx context.Context) (code, log string, err error) {
	if code, err = v.engine.docker(ctx, "wait", v.name); err != nil {
		return "", "", fmt.Errorf("%w: %s", err, code)
	}
	log, err = v.engine.docker(ctx, "logs", v.name)
	return strings.TrimSpace(code), log, err
}

// works are the rows of a set in which everything works.
func (s *suite) works(p privileges) []row {
	var v *server
	with := func(job func(*server, context.Context) (string, error)) func(context.Context) (string, error) {
		return func(ctx context.Context) (_ string, err error) {
			if v == nil {
				if v, err = s.start(ctx, p, nil, "daemon", "--listen", serviceSocket); err != nil {
					return "", err
				}
			}
			return job(v, ctx)
		}
	}
	return []row{
		{p.name, "main job", func(ctx context.Context) (string, error) { return s.builds(ctx, p.image, p.flags...) }},
		{p.name, "Nix daemon, real client", with((*server).nixBuild)},
		{p.name, "recursive Nix", with((*server).recursive)},
		{p.name, "gRPC, scheduler", with((*server).schedule)},
		{p.name, "clean end", with((*server).end)},
	}
}

// nixBuild has real Nix build the demo through the daemon.
func (v *server) nixBuild(ctx context.Context) (string, error) {
	out, err := v.exec(ctx, "/client/bin/nix-build", "--no-out-link", "--argstr", "system", system(), "/client/hello.nix")
	if err != nil || !strings.Contains(out, "-kiln-demo\n") {
		return "", unexpected(err, "nix-build: %s", out)
	}
	return "built", nil
}

// recursive has a builder call Nix.
func (v *server) recursive(ctx context.Context) (string, error) {
	out, err := v.exec(ctx, "/client/bin/nix-build", "--no-out-link", "/client/outer.nix")
	lines := strings.Fields(out)
	if err != nil || len(lines) == 0 {
		return "", unexpected(err, "nix-build: %s", out)
	}
	text, err := v.exec(ctx, "busybox", "cat", lines[len(lines)-1])
	if err != nil || text != "outer: built inside\n" {
		return "", unexpected(err, "output: %q", text)
	}
	return "built inside", nil
}

// schedule has the scheduler of the examples bring derivations from a store of its own.
func (v *server) schedule(ctx context.Context) (string, error) {
	user := "0:0"
	if v.image == imageRootless {
		user = "1000:1000"
	}
	out, code, err := v.engine.run(ctx, "--user", user, "-e", "HOME=/tmp", "-e", experimental, "--volumes-from", v.name, "--entrypoint", "sh", imageScheduler, "-ec",
		"exec scheduler -store /tmp/work -executor "+serviceSocket+" $(work.sh /tmp/work)")
	if err != nil || code != 0 {
		return "", unexpected(err, "scheduler: exit code %d: %s", code, out)
	}
	if n := strings.Count(out, "✓"); n != 6 {
		return "", fmt.Errorf("%d of 6 derivations are built: %s", n, out)
	}
	return "6 derivations", nil
}

// end stops the container as an orchestrator does, and looks at what is left.
func (v *server) end(ctx context.Context) (string, error) {
	defer v.remove()
	begin := time.Now()
	if out, err := v.engine.docker(ctx, "stop", "-t", "30", v.name); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	took := time.Since(begin)
	code, log, err := v.state(ctx)
	if err != nil || code != "0" {
		return "", unexpected(err, "exit code %s: %s", code, log)
	}
	if err := v.verify(ctx, v.privileges, v.store); err != nil {
		return "", err
	}
	return fmt.Sprintf("exit code 0 after %.1f s, store verifies", took.Seconds()), nil
}

// refuses are the rows of a set in which nothing is built.
func (s *suite) refuses(p privileges) []row {
	refusal := func(words ...string) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			return s.refused(ctx, slices.Concat(p.flags, []string{p.image}, words), p.says)
		}
	}
	return []row{
		{p.name, "main job", refusal("build", "--option", "substituters", "", "/usr/share/kiln/demo.json")},
		{p.name, "gRPC", refusal("serve")},
		{p.name, "Nix daemon and recursive Nix", func(ctx context.Context) (string, error) { return s.daemonWarns(ctx, p) }},
	}
}

// refused wants a container to end with one line that says something.
func (s *suite) refused(ctx context.Context, words []string, says string) (string, error) {
	out, code, err := s.engine.run(ctx, words...)
	if err != nil {
		return "", err
	}
	return complaint(out, code, says)
}

// complaint finds the line that tells of the error.
func complaint(out string, code int, says string) (string, error) {
	if code == 0 {
		return "", fmt.Errorf("it works: %s", out)
	}
	n, found := 0, ""
	for line := range strings.Lines(out) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "error: "); ok {
			n, found = n+1, text
		}
	}
	if n != 1 || !strings.Contains(found, says) {
		return "", fmt.Errorf("exit code %d, want one error that says %q: %s", code, says, out)
	}
	return fmt.Sprintf("exit code %d: …%s…", code, says), nil
}

// daemonWarns wants the daemon to give what it has, to say why it builds nothing, and so it
// is: whether Nix asks or a builder would.
func (s *suite) daemonWarns(ctx context.Context, p privileges) (string, error) {
	v, err := s.start(ctx, p, nil, "daemon", "--listen", serviceSocket)
	if err != nil {
		return "", err
	}
	defer v.remove()
	for _, name := range []string{"hello.nix", "outer.nix"} {
		words := []string{"/client/bin/nix-build", "--no-out-link", "/client/" + name}
		if name == "hello.nix" {
			words = append(words, "--argstr", "system", system())
		}
		if out, err := v.exec(ctx, words...); err == nil || !strings.Contains(out, p.says) {
			return "", unexpected(err, "nix-build of %s: %s", name, out)
		}
	}
	log, err := v.engine.docker(ctx, "logs", v.name)
	if err != nil || !strings.Contains(log, p.says) {
		return "", unexpected(err, "log: %s", log)
	}
	return "serves, warns, builds nothing", nil
}

// without wants kiln to name what is missing of a set.
func (s *suite) without(ctx context.Context, p privileges, l lack) (string, error) {
	flags, err := p.except(l.flag)
	if err != nil {
		return "", err
	}
	return s.refused(ctx, append(flags, p.image, "serve"), l.says)
}
