//go:build unix

package conf

import (
	"os"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
)

// Host describes the machine and the process that calls it, as they are now.
func Host() Environment {
	dir, _ := os.Getwd()
	return Environment{
		Lookup:    os.LookupEnv,
		Files:     os.DirFS("/"),
		ReadWrite: func(name string) bool { return syscall.Access(name, accessRead|accessWrite) == nil },
		OS:        runtime.GOOS,
		Arch:      runtime.GOARCH,
		UID:       os.Getuid(),
		CPUs:      runtime.NumCPU(),
		AppleVirt: appleVirt(),
		Home:      home(),
		Dir:       dir,
	}
}

// access(2)
const (
	accessRead  = 4
	accessWrite = 2
)

// home is $HOME, unless that belongs to somebody else: a program that sudo
// started must not take its settings from the files of the user who called sudo.
func home() string {
	dir := os.Getenv("HOME")
	if dir != "" {
		info, err := os.Stat(dir)
		if os.IsNotExist(err) {
			return dir
		}
		if err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Geteuid() {
				return dir
			}
		}
	}
	if u, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil {
		return u.HomeDir
	}
	return ""
}
