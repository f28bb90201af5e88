package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A suite is one run of everything.
type suite struct {
	engine   *engine
	document *document
	dir      string // for files of its own
	client   string // a real Nix, see makeClient
	largest  []string
	number   atomic.Int64
	keep     bool // the images
	volumes  []string
	servers  []*server
}

// rows are all rows, in the order in which they run.
func (s *suite) rows(ctx context.Context) ([]row, error) {
	var err error
	if s.client, err = s.makeClient(ctx); err != nil {
		return nil, err
	}
	if s.largest, err = s.findLargest(ctx); err != nil {
		return nil, err
	}
	all := []row{
		{"image", "size below 40 MB", s.engine.size},
		{"image", "what is in it", func(ctx context.Context) (string, error) { return s.engine.contents(ctx, s.document.files) }},
	}
	for _, p := range s.document.sets {
		if p.says == "full" {
			if p.name == "largest" {
				p.flags = s.largest
			}
			all = append(all, s.works(p)...)
		} else {
			all = append(all, s.refuses(p)...)
		}
	}
	least, err := s.document.set("least")
	if err != nil {
		return nil, err
	}
	for _, l := range s.document.without {
		all = append(all, row{"least", "without " + l.flag, func(ctx context.Context) (string, error) { return s.without(ctx, least, l) }})
	}
	all = append(all, row{"nested", "kiln in a container in kiln's sandbox", s.nested})
	all = append(all, s.faults(least)...)
	return append(all, s.manifests()...), nil
}

// findLargest gives the flags of the most privilege that the engine can give: a machine whose
// own bounding set lacks a capability cannot give all.
func (s *suite) findLargest(ctx context.Context) ([]string, error) {
	p, err := s.document.set("largest")
	if err != nil {
		return nil, err
	}
	if _, code, err := s.engine.run(ctx, append(p.flags, imageRoot, "--version")...); err == nil && code == 0 {
		return p.flags, nil
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	_, text, _ := strings.Cut(string(status), "\nCapBnd:\t")
	text, _, _ = strings.Cut(text, "\n")
	bounding, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return nil, fmt.Errorf("read the bounding set: %w", err)
	}
	flags := []string{
		"--cap-drop", "ALL", "--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined",
		"--security-opt", "apparmor=unconfined", "-v", "/sys/fs/cgroup:/sys/fs/cgroup",
	}
	for bit, name := range capabilities {
		add := append(flags, "--cap-add", name)
		if bounding&(1<<bit) == 0 {
			continue
		}
		// An engine may know fewer than the kernel.
		if _, code, err := s.engine.run(ctx, append(add, imageRoot, "--version")...); err == nil && code == 0 {
			flags = add
		}
	}
	return flags, nil
}

// capabilities are the names of the kernel's capabilities, by their numbers
// (include/uapi/linux/capability.h).
var capabilities = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
	NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
	SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
	MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// makeClient makes a directory with real Nix that runs wherever it is mounted.
func (s *suite) makeClient(ctx context.Context) (string, error) {
	if err := need(ctx, "nix"); err != nil {
		return "", err
	}
	dir := filepath.Join(s.dir, "client")
	cmd := exec.CommandContext(ctx, "internal/container/client.sh", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy Nix: %w: %s", err, out)
	}
	return dir, nil
}

// name is one that nothing else has.
func (s *suite) name() string {
	return fmt.Sprintf("kiln-test-%d-%d", os.Getpid(), s.number.Add(1))
}

// volume makes a volume, which is removed in the end.
func (s *suite) volume(ctx context.Context) (string, error) {
	name := s.name()
	if out, err := s.engine.docker(ctx, "volume", "create", name); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	s.volumes = append(s.volumes, name)
	return name, nil
}

// clean removes what an engine that was there before keeps otherwise.
func (s *suite) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, v := range s.servers {
		v.remove()
	}
	for _, name := range s.volumes {
		s.engine.docker(ctx, "volume", "rm", "-f", name)
	}
	if s.keep {
		return
	}
	s.engine.docker(ctx, "image", "rm", "-f", imageRoot, imageRootless, imageScheduler)
}

// builds wants the demo to be built in full isolation.
func (s *suite) builds(ctx context.Context, image string, flags ...string) (string, error) {
	out, code, err := s.engine.run(ctx, append(flags, image, "build", "-v", "-L", "--option", "substituters", "", "/usr/share/kiln/demo.json")...)
	if err != nil {
		return "", err
	}
	_, level, ok := strings.Cut(out, "isolation of ")
	if !ok || code != 0 || !strings.Contains(out, "/nix/store/") {
		return "", fmt.Errorf("exit code %d: %s", code, out)
	}
	level, _, _ = strings.Cut(level, "\n")
	if !strings.HasSuffix(level, ": full") {
		return "", fmt.Errorf("isolation of %s", level)
	}
	return "isolation: full", nil
}

// verify checks a store in a volume.
func (s *suite) verify(ctx context.Context, p privileges, volume string) error {
	out, code, err := s.engine.run(ctx, append(p.flags, "-v", volume+":/nix", p.image, "store", "verify", "--check-contents")...)
	if err == nil && code != 0 {
		err = fmt.Errorf("the store does not verify: %s", out)
	}
	return err
}

// unexpected is an error about something that came out otherwise. err is why, nil if it came
// out all the same.
func unexpected(err error, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if err != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	return errors.New(text)
}
