package enclave

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// childVar makes the test binary a program that runs in an enclave.
const childVar = "KILN_ENCLAVE_TEST_CHILD"

const childStatus = 17

// A view is what the program in the enclave sees.
type view struct {
	Enclave *Enclave
	Group   string // getent's line
	Mounts  string
	Args    []string
}

func TestMain(m *testing.M) {
	if os.Getenv(childVar) == "" {
		os.Exit(m.Run())
	}
	status, err := Run(Options{Groups: []string{"kenclave", "kother"}, Members: 2, Size: "1g"}, func(e *Enclave) int {
		group, _ := exec.Command("getent", "group", "kenclave").Output()
		mounts, _ := os.ReadFile("/proc/self/mountinfo")
		json.NewEncoder(os.Stdout).Encode(view{e, string(group), string(mounts), os.Args[1:]})
		return childStatus
	})
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Exit(status)
}

func TestRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: others have no mount namespace without a user namespace")
	}
	accounts, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "an argument")
	cmd.Env = append(os.Environ(), childVar+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != childStatus {
		t.Fatalf("the status is %d, want the inner program's %d: %v", cmd.ProcessState.ExitCode(), childStatus, err)
	}
	var v view
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Args) != 1 || v.Args[0] != "an argument" {
		t.Errorf("arguments %q", v.Args)
	}
	if !strings.HasSuffix(strings.TrimSpace(v.Group), ":kenclave1,kenclave2") {
		t.Errorf("getent says %q", v.Group)
	}
	ids := map[int]bool{}
	for _, g := range v.Enclave.Groups {
		for _, uid := range g.UIDs {
			if ids[uid] {
				t.Errorf("two users have the id %d", uid)
			}
			ids[uid] = true
		}
	}
	mount := filepath.Dir(v.Enclave.Dir)
	if !strings.Contains(v.Mounts, " "+mount+" ") {
		t.Errorf("no mount on %s", mount)
	}
	if _, err := os.Lstat(mount); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", mount, err)
	}
	if now, err := os.ReadFile("/etc/passwd"); err != nil || string(now) != string(accounts) {
		t.Errorf("the machine's accounts changed: %v", err)
	}
}

func TestRunRefusesOthers(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("is about ordinary users")
	}
	if _, err := Run(Options{}, func(*Enclave) int { return 0 }); err == nil || !strings.Contains(err.Error(), "only root") {
		t.Errorf("error %v", err)
	}
}
