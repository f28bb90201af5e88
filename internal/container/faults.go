package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// faults are the rows in which something is wrong with the container.
func (s *suite) faults(least privileges) []row {
	rows := []row{
		{"faults", "store volume is read-only", func(ctx context.Context) (string, error) {
			volume, err := s.volume(ctx)
			if err != nil {
				return "", err
			}
			if _, err := s.builds(ctx, least.image, slices.Concat(least.flags, []string{"-v", volume + ":/nix"})...); err != nil {
				return "", err
			}
			return s.fails(ctx, least, volume, []string{"-v", volume + ":/nix:ro"}, "mount the file system writable")
		}},
		{"faults", "store volume is another user's", s.foreignStore},
		{"faults", "/proc is masked", func(ctx context.Context) (string, error) {
			flags, err := least.except("--security-opt systempaths=unconfined")
			if err != nil {
				return "", err
			}
			return s.fails(ctx, privileges{image: least.image, flags: flags}, "", nil, "add --security-opt systempaths=unconfined")
		}},
		{"faults", "no cgroup can be made", func(ctx context.Context) (string, error) { return s.limits(ctx, least) }},
		{"faults", "SIGTERM in mid-build", func(ctx context.Context) (string, error) { return s.terminated(ctx, least) }},
		{"faults", "SIGKILL after the grace period", func(ctx context.Context) (string, error) { return s.killed(ctx, least) }},
	}
	for _, call := range []string{"unshare", "mount", "pivot_root"} {
		rows = append(rows, row{"faults", "seccomp profile denies " + call, func(ctx context.Context) (string, error) { return s.denied(ctx, least, call) }})
	}
	return rows
}

// message makes a file in the place of Kubernetes' termination message, and gives the flags
// for it.
func (s *suite) message() (file string, flags []string, err error) {
	file = filepath.Join(s.dir, s.name())
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		return "", nil, err
	}
	return file, []string{"-v", file + ":/dev/termination-log"}, os.Chmod(file, 0o666)
}

// fails wants the service not to start: with exit code 77, one line in the log, and the same
// in the termination message. A store in a volume verifies afterwards.
func (s *suite) fails(ctx context.Context, p privileges, volume string, more []string, says string) (string, error) {
	file, flags, err := s.message()
	if err != nil {
		return "", err
	}
	out, code, err := s.engine.run(ctx, slices.Concat(p.flags, flags, more, []string{p.image, "serve", "--log-json"})...)
	if err != nil {
		return "", err
	}
	last, n := "", 0
	for line := range strings.Lines(out) {
		var m struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			return "", fmt.Errorf("the log is not JSON: %w: %s", err, out)
		}
		if m.Level == "ERROR" {
			last, n = m.Msg, n+1
		}
	}
	text, err := os.ReadFile(file)
	switch {
	case err != nil:
		return "", err
	case code != 77 || n != 1 || !strings.Contains(last, says):
		return "", fmt.Errorf("exit code %d, want 77 and one error that says %q: %s", code, says, out)
	case string(text) != last+"\n":
		return "", fmt.Errorf("the termination message is %q, the error %q", text, last)
	}
	if volume != "" {
		if err := s.verify(ctx, p, volume); err != nil {
			return "", err
		}
	}
	return "exit code 77: …" + says + "…", nil
}

func (s *suite) foreignStore(ctx context.Context) (string, error) {
	p, err := s.document.set("rootless")
	if err != nil {
		return "", err
	}
	volume, err := s.volume(ctx)
	if err != nil {
		return "", err
	}
	mount := []string{"-v", volume + ":/nix"}
	if out, code, err := s.engine.run(ctx, slices.Concat(mount, []string{"--entrypoint", "sh", imageRoot, "-c", "mkdir /nix/store && chown -R 1234 /nix"})...); err != nil || code != 0 {
		return "", unexpected(err, "prepare the volume: %s", out)
	}
	return s.fails(ctx, p, "", mount, "belongs to user 1234, and this is user 1000")
}

func (s *suite) denied(ctx context.Context, p privileges, call string) (string, error) {
	file := filepath.Join(s.dir, call+".json")
	profile := fmt.Sprintf(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [%q], "action": "SCMP_ACT_ERRNO"}]}`, call)
	if err := os.WriteFile(file, []byte(profile), 0o644); err != nil {
		return "", err
	}
	flags, err := p.except("--security-opt seccomp=deploy/seccomp.json")
	if err != nil {
		return "", err
	}
	return s.fails(ctx, privileges{image: p.image, flags: append(flags, "--security-opt", "seccomp="+file)}, "", nil, "the seccomp profile refuses "+call)
}

// limits wants that limits are not enforced where no group can be made, which the report
// says, that a build which insists on them fails, and that they are where one can.
func (s *suite) limits(ctx context.Context, least privileges) (string, error) {
	job := []string{"build", "-v", "--option", "substituters", "", "--limits", "memory=1G processes=100", "/usr/share/kiln/demo.json"}
	const says = "give it /sys/fs/cgroup writable"
	out, code, err := s.engine.run(ctx, slices.Concat(least.flags, []string{least.image}, job)...)
	if err != nil || code != 0 || !strings.Contains(out, "not enforced") || !strings.Contains(out, says) {
		return "", unexpected(err, "with limits: exit code %d: %s", code, out)
	}
	out, code, err = s.engine.run(ctx, slices.Concat(least.flags, []string{least.image}, job, []string{"--option", "require-limits", "true"})...)
	if err != nil {
		return "", err
	}
	if _, err := complaint(out, code, says); err != nil {
		return "", err
	}
	out, code, err = s.engine.run(ctx, slices.Concat(s.largest, []string{least.image}, job, []string{"--option", "require-limits", "true"})...)
	if err != nil || code != 0 || strings.Contains(out, "not enforced") {
		return "", unexpected(err, "with the largest set: exit code %d: %s", code, out)
	}
	return "told, refused if insisted on; enforced in the largest set", nil
}

// sleeper is a derivation whose builder does not end by itself.
const sleeper = `{"name": "sleeper", "version": 4, "system": "%s", "builder": "/bin/sh", "args": ["-c", "echo begun; sleep 600"],
 "env": {"name": "sleeper", "out": "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"}, "inputs": {"srcs": [], "drvs": {}},
 "outputs": {"out": {"method": "nar", "hashAlgo": "sha256"}}}`

// underWay starts a service, in which a build is under way when it returns.
func (s *suite) underWay(ctx context.Context, p privileges, grace string) (v *server, message string, err error) {
	file, flags, err := s.message()
	if err != nil {
		return nil, "", err
	}
	if v, err = s.start(ctx, p, flags, "serve", "--listen", serviceSocket, "--log-json", "--grace", grace); err != nil {
		return nil, "", err
	}
	script := "echo '" + fmt.Sprintf(sleeper, system()) + "' > /run/kiln/sleeper.json; exec kiln build --store /run/kiln/ours --executor " +
		serviceSocket + " --detach --build-id sleeper /run/kiln/sleeper.json"
	out, err := v.exec(ctx, "sh", "-c", script)
	for err == nil && ctx.Err() == nil {
		if out, err = v.exec(ctx, "kiln", "logs", "--executor", serviceSocket, "sleeper"); strings.Contains(out, "begun") {
			return v, file, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	v.remove()
	return nil, "", fmt.Errorf("begin a build: %w: %s", err, out)
}

// terminated stops a service in mid-build, which is to end in time.
func (s *suite) terminated(ctx context.Context, p privileges) (string, error) {
	v, file, err := s.underWay(ctx, p, "2s")
	if err != nil {
		return "", err
	}
	defer v.remove()
	begin := time.Now()
	if out, err := v.engine.docker(ctx, "stop", "-t", "20", v.name); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	took := time.Since(begin)
	if err := v.ended(ctx, "0", file, "what was under way is interrupted", true); err != nil {
		return "", err
	}
	return fmt.Sprintf("exit code 0 after %.1f s, build is INTERRUPTED, store verifies", took.Seconds()), nil
}

// killed has a service killed before what it waits for.
func (s *suite) killed(ctx context.Context, p privileges) (string, error) {
	v, file, err := s.underWay(ctx, p, "300s")
	if err != nil {
		return "", err
	}
	defer v.remove()
	if out, err := v.engine.docker(ctx, "stop", "-t", "2", v.name); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	if err := v.ended(ctx, "137", file, "raise the container's grace period", false); err != nil {
		return "", err
	}
	return "exit code 137, build is INTERRUPTED, store verifies", nil
}

// ended looks at what is left of a service in which a build was under way: the exit code,
// the termination message, which the log has too if logged, the store, and what the next
// service says of the build.
func (v *server) ended(ctx context.Context, want, file, says string, logged bool) error {
	code, log, err := v.state(ctx)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if code != want || !strings.Contains(string(text), says) || strings.Count(string(text), "\n") != 1 || logged && !strings.Contains(log, says) {
		return fmt.Errorf("exit code %s, want %s; termination message %q, want %q; log: %s", code, want, text, says, log)
	}
	if err := v.verify(ctx, v.privileges, v.store); err != nil {
		return err
	}
	v.remove()
	if err := v.again(ctx, nil, "serve", "--listen", serviceSocket); err != nil {
		return err
	}
	out, err := v.exec(ctx, "kiln", "ps", "-a", "--executor", serviceSocket)
	if err != nil || !strings.Contains(out, "interrupted") {
		return unexpected(err, "what the next service knows: %s", out)
	}
	return nil
}
