package main

import "testing"

// TestFirstComplaint has what a test logs whether it fails or not before what it
// complains about, at the same place.
func TestFirstComplaint(t *testing.T) {
	const usual = "=== RUN   TestX\n    x_test.go:7: 12 rounds in 1.5s\n    x_test.go:9: no network: none\n--- PASS: TestX (0.00s)\n"
	for output, want := range map[string]string{
		"    x_test.go:7: 9 rounds in 0.7s\n    x_test.go:9: no network: none\n    x_test.go:9: reached a socket\n    x_test.go:11: more\n": "reached a socket",
		"        x_test.go:7: 9 rounds are too many\n": "9 rounds are too many",
		"    x_test.go:7: 9 rounds in 0.7s\npanic: \n": "failed",
	} {
		if got := firstComplaint(output, usual); got != want {
			t.Errorf("%q: %q, want %q", output, got, want)
		}
	}
}
