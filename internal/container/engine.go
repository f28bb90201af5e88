package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// An engine is a container engine, by its client.
type engine struct {
	host    string // DOCKER_HOST, "" for the one that is there
	daemon  *exec.Cmd
	log     *os.File
	network []string // what containers and builds without the engine's network are told
}

// openEngine takes the engine that answers, or starts one with its files in dir.
func openEngine(ctx context.Context, dir string) (*engine, error) {
	if err := need(ctx, "docker"); err != nil {
		return nil, err
	}
	e := &engine{}
	if _, err := e.docker(ctx, "version"); err == nil {
		return e, nil
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("no container engine answers, and only root can start one: start docker, or set DOCKER_HOST")
	}
	if err := need(ctx, "dockerd"); err != nil {
		return nil, err
	}
	fmt.Fprintln(os.Stderr, "No container engine answers: starting one for this run")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	var err error
	if e.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	e.host = "unix://" + filepath.Join(dir, "socket")
	// Nothing of the machine's network is touched: builds use it as it is, and containers
	// have none.
	e.daemon = exec.Command("dockerd", "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "-H", e.host, "--iptables=false", "--bridge=none")
	e.daemon.Stdout, e.daemon.Stderr = e.log, e.log
	// An interrupt is for us, who end it when everything is removed.
	e.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	e.network = []string{"--network", "none"}
	if err := e.daemon.Start(); err != nil {
		return nil, err
	}
	const patience = time.Minute
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		_, err := e.docker(ctx, "version")
		if err == nil {
			return e, nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			text, _ := os.ReadFile(e.log.Name())
			e.close()
			return nil, fmt.Errorf("start dockerd: it does not answer: %w\n%s", err, text)
		}
	}
}

// need sees that a program is there.
func need(ctx context.Context, program string) error {
	cmd := exec.CommandContext(ctx, ".ci/need", program)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("get %s: %w", program, err)
	}
	return nil
}

// close ends what was started, and removes its files.
func (e *engine) close() {
	if e.daemon == nil {
		return
	}
	e.daemon.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(time.Minute, func() { e.daemon.Process.Kill() })
	e.daemon.Wait()
	kill.Stop()
	e.log.Close()
	dir := filepath.Dir(e.log.Name())
	detachMounts(dir)
	os.RemoveAll(dir)
}

// docker runs the client, and gives what it and the container printed.
func (e *engine) docker(ctx context.Context, args ...string) (string, error) {
	return e.feed(ctx, nil, args...)
}

func (e *engine) feed(ctx context.Context, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0", "DOCKER_CLI_HINTS=false")
	if e.host != "" {
		cmd.Env = append(cmd.Env, "DOCKER_HOST="+e.host)
	}
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("docker %s: %w", strings.Join(args, " "), err)
	}
	return string(out), err
}

// run runs a container to its end and gives what it printed and its exit code.
func (e *engine) run(ctx context.Context, words ...string) (out string, code int, err error) {
	args := append(append([]string{"run", "--rm"}, e.network...), words...)
	out, err = e.docker(ctx, args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil && exit.ExitCode() != 125 { // 125: docker itself failed
		return out, exit.ExitCode(), nil
	}
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return out, 0, err
}
