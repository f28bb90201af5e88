package main

import (
	"os"
	"unicode/utf8"
)

// Where an orchestrator looks for why a container has ended (Kubernetes,
// terminationMessagePath), and how much of it Kubernetes takes, in bytes.
const (
	terminationFile    = "/dev/termination-log"
	terminationSetting = "KILN_TERMINATION_LOG"
	maxTermination     = 4096
)

// terminationMessage leaves a line for whoever looks why this process has ended. It goes to
// the file that the environment names; without, and if this is the first process of a
// container, to where Kubernetes puts one. A later message replaces an earlier one. That
// it cannot be written changes nothing: the log has it too.
func terminationMessage(text string) {
	path, flags := os.Getenv(terminationSetting), os.O_WRONLY|os.O_TRUNC|os.O_CREATE
	if path == "" {
		if os.Getpid() != 1 {
			return
		}
		path, flags = terminationFile, os.O_WRONLY|os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	f.WriteString(cutText(text, maxTermination-1) + "\n")
}

// cutText gives the beginning of a text, of at most n bytes and in whole characters.
func cutText(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
