package rpc

import (
	"strings"
	"testing"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
)

// TestHealthWhileDraining has a server drain, and take builds again.
func TestHealthWhileDraining(t *testing.T) {
	_, c := crowded(t, waiting{make(chan struct{})})
	a := Address{"unix", strings.TrimPrefix(c.conn.Target(), "unix://")}
	check := func(ready bool) {
		t.Helper()
		if err := Alive(t.Context(), a, nil); err != nil {
			t.Error(err)
		}
		err := Ready(t.Context(), a, nil)
		if ready && err != nil || !ready && (err == nil || !strings.Contains(err.Error(), "it is not serving")) {
			t.Errorf("error %v, want it to be ready: %v", err, ready)
		}
	}
	check(true)
	for _, resume := range []bool{false, true} {
		if _, err := c.Executor.Drain(t.Context(), &kilnv1.DrainRequest{Resume: resume}); err != nil {
			t.Fatal(err)
		}
		check(resume)
	}
}
