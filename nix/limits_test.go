package nix

import (
	"testing"
	"time"
)

func TestParseLimits(t *testing.T) {
	for text, want := range map[string]Limits{
		"":                             {},
		"memory=2G processes=500":      {Memory: 2 << 30, Processes: 500},
		" timeout=60\n silence=1K ":    {Timeout: time.Minute, MaxSilent: 1024 * time.Second},
		"cpu-weight=50 cpu-quota=150":  {CPUWeight: 50, CPUQuota: 150},
		"log=1M output=1T build-dir=7": {Log: 1 << 20, Output: 1 << 40, BuildDir: 7},
	} {
		if got, err := ParseLimits(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"memory", "memory=", "memory=0", "memory=1", "memory=-1", "memory=1X", "memory=1G2", "memory=99999999999T", "memory=1G memory=1G",
		"cpu-weight=10001", "cpu-quota=2M", "timeout=1T", "speed=1", "=1", "require=1",
	} {
		if got, err := ParseLimits(text); err == nil {
			t.Errorf("%q is taken: %+v", text, got)
		}
	}
}

func FuzzParseLimits(f *testing.F) {
	f.Add("memory=2G processes=500 timeout=60")
	f.Add("cpu-quota=18446744073709551615")
	f.Fuzz(func(t *testing.T, text string) {
		if l, err := ParseLimits(text); err == nil && l.Validate() != nil {
			t.Errorf("%q is taken, and is not valid: %v", text, l.Validate())
		}
	})
}

func TestTightest(t *testing.T) {
	a := Limits{Memory: 10, Timeout: time.Second, Log: 5}
	b := Limits{Memory: 5, Processes: 3, Timeout: time.Minute, Require: true}
	want := Limits{Memory: 5, Processes: 3, Timeout: time.Second, Log: 5, Require: true}
	if got := a.Tightest(b); got != want {
		t.Errorf("%+v", got)
	}
	if got := b.Tightest(a); got != want {
		t.Errorf("the other way: %+v", got)
	}
}

// TestAdvice wants that nobody is told to try again what cannot succeed.
func TestAdvice(t *testing.T) {
	for kind := FailureOther; kind <= FailureInterrupted; kind++ {
		f := Failure{Kind: kind, Limit: 1}
		limited := kind == FailureOutOfMemory || kind == FailureProcesses || kind == FailureOutputSize || kind == FailureBuildDirSize || kind == FailureLogSize
		if limited && (f.RetryHelps() || f.AnotherMachineHelps()) {
			t.Errorf("%v: a limit that is exceeded is exceeded again", kind)
		}
		if kind.String() == "" || kind != FailureOther && kind.String() == "other" {
			t.Errorf("kind %d has no name", kind)
		}
	}
}
