package main

import (
	"slices"
	"strings"
	"testing"
)

// TestDocument wants the page to have what the program takes from it, and a reason for each
// flag of the least set that gives something.
func TestDocument(t *testing.T) {
	d, err := readDocument("../../docs/containers.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"largest", "least", "rootless", "none"} {
		if _, err := d.set(name); err != nil {
			t.Error(err)
		}
	}
	least, _ := d.set("least")
	// These take something away, or count only where the engine has AppArmor.
	narrows := []string{"--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--security-opt apparmor=unconfined"}
	for _, l := range d.without {
		narrows = append(narrows, l.flag)
	}
	for _, flag := range narrows {
		if least.flags, err = least.except(flag); err != nil {
			t.Error(err)
		}
	}
	if len(least.flags) > 0 {
		t.Errorf("no reason is given for %q", strings.Join(least.flags, " "))
	}
	if !slices.Contains(d.files, "/usr/bin/kiln") {
		t.Errorf("files in the image: %q", d.files)
	}
}

func TestComplaint(t *testing.T) {
	for _, test := range []struct {
		out  string
		code int
		ok   bool
	}{
		{"warning: odd\nerror: open store: read-only", 77, true},
		{"error: open store: read-only", 0, false},
		{"error: open store: full", 1, false},
		{"error: read-only\nerror: and more", 1, false},
		{"read-only", 1, false},
	} {
		if _, err := complaint(test.out, test.code, "read-only"); (err == nil) != test.ok {
			t.Errorf("%q, exit code %d: %v", test.out, test.code, err)
		}
	}
}
