//go:build linux

package interop

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// noUserNamespaces is set for the test binary when it has to forbid user
// namespaces and run its arguments.
const noUserNamespaces = "KILN_INTEROP_NO_USERNS"

// forbidUserNamespaces runs words where no user namespace can be made. The
// process is in a user namespace of its own and may set that namespace's limit.
func forbidUserNamespaces(words []string) error {
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	return unix.Exec(words[0], words, os.Environ())
}

// TestRefusesWithoutUserNamespaces wants an ordinary user, to whom the machine
// gives no user namespace, to be told so and what to do, instead of a build that
// is not isolated; unless it was asked for by hand.
func TestRefusesWithoutUserNamespaces(t *testing.T) {
	needs(t)
	if testenv.Root() {
		t.Skip("is about ordinary users: root needs no user namespace")
	}
	scene := newScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	drv := instantiateText(t, scene, kiln.store, `script "refused" { } "echo x > $out"`)
	forbidden := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.Args = append([]string{"/proc/self/exe"}, cmd.Args...)
		cmd.Path = "/proc/self/exe"
		cmd.Env = append(cmd.Env, noUserNamespaces+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Setsid:      true,
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
			AmbientCaps: []uintptr{unix.CAP_SYS_RESOURCE},
		}
		return cmd
	}

	before := take(t, kiln)
	o := run(t, forbidden(kiln.build(t, nil, nil, target{drv: drv})))
	if o.exit == 0 || !strings.Contains(o.stderr, "user namespace") || !strings.Contains(o.stderr, "max_user_namespaces") {
		t.Errorf("exit %d:\n%s", o.exit, o.stderr)
	}
	if after := take(t, kiln); len(after.objects) != len(before.objects) || len(after.strays) > 0 {
		t.Errorf("the refusal left something: %v", after.strays)
	}

	// kiln doctor tells the same without a build, and does not fail over it.
	o = run(t, forbidden(kilnCommand(t, scene, kiln.store, "doctor")))
	if text := strings.Join(o.stdout, "\n") + o.stderr; !strings.Contains(text, "max_user_namespaces") {
		t.Errorf("kiln doctor, exit %d:\n%s", o.exit, text)
	}

	// By hand, a build without isolation is a build, and says what it was. It needs
	// a store whose directory is where its paths say: nothing is mounted there.
	place := scene.Mkdir("unmoved")
	store := "local?store=" + place + "/store&state=" + place + "/state&log=" + place + "/log"
	drv = instantiateText(t, scene, store, `script "unsandboxed" { } "echo x > $out"`)
	words := append([]string{testenv.Kiln(t), "build", "--json", "--store", store},
		kiln.options(t, map[string]string{"sandbox-fallback": "true"})...)
	o = run(t, forbidden(kiln.command(append(words, drv)...)))
	if text := strings.Join(o.stdout, "\n"); o.exit != 0 || !strings.Contains(text, `"level": "none"`) || !strings.Contains(o.stderr, "without a sandbox") {
		t.Errorf("with sandbox-fallback: exit %d:\n%s\n%s", o.exit, text, o.stderr)
	}
}
