package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTally(t *testing.T) {
	const events = `
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"run","Package":"p","Test":"TestB/one"}
{"Action":"output","Package":"p","Test":"TestB/one","Output":"    b_test.go:7: wrong\n"}
{"Action":"run","Package":"p","Test":"TestB/two"}
{"Action":"output","Package":"p","Test":"TestB/two","Output":"    b_test.go:9: needs: root\n"}
{"Action":"fail","Package":"p","Test":"TestB/one"}
{"Action":"skip","Package":"p","Test":"TestB/two"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"run","Package":"p","Test":"TestC"}
{"Action":"run","Package":"p","Test":"TestC/sub"}
{"Action":"pass","Package":"p","Test":"TestC/sub"}
{"Action":"output","Package":"p","Test":"TestC","Output":"after the subtests\n"}
{"Action":"fail","Package":"p","Test":"TestC"}
{"Action":"fail","Package":"p","Elapsed":1.5}
{"Action":"output","Package":"q","Output":"panic: boom\n"}
{"Action":"fail","Package":"q","Elapsed":0.2}
{"Action":"skip","Package":"untested"}
`
	got := tally{who: "root"}
	var out strings.Builder
	if err := got.read(strings.NewReader(strings.TrimLeft(events, "\n")), &out); err != nil {
		t.Fatal(err)
	}
	want := tally{
		passed: 2, failed: 3, skipped: 1,
		reasons:  map[string]int{"needs: root": 1},
		failures: []string{"root: p TestB/one", "root: p TestC", "root: q"}, who: "root",
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(tally{})); d != "" {
		t.Errorf("tally (-want +got):\n%s", d)
	}
	for _, text := range []string{"b_test.go:7: wrong", "after the subtests", "panic: boom", "FAIL  p ", "FAIL  q ", "2 passed, 2 failed, 1 skipped"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("the report lacks %q:\n%s", text, out.String())
		}
	}
	if strings.Contains(out.String(), "untested") {
		t.Errorf("a package without tests is reported:\n%s", out.String())
	}
	var summary strings.Builder
	got.summary(&summary)
	if want := "2 passed, 3 failed, 1 skipped\n"; !strings.HasSuffix(summary.String(), want) {
		t.Errorf("the summary does not end with %q:\n%s", want, summary.String())
	}
}
