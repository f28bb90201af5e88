//go:build linux

package interop

import (
	"slices"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// TestUIDRange wants a builder that asks for a range of users to have one, and what
// it gives to them to be the store's afterwards.
func TestUIDRange(t *testing.T) {
	needs(t)
	scene := newScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	drv := instantiateText(t, scene, kiln.store, `script "uid-range" { requiredSystemFeatures = [ "uid-range" ]; } ''
		id -u; id -g; set -- $(cat /proc/self/uid_map); echo $1 $3
		mkdir $out; touch $out/file; chown 17:18 $out/file; stat -c %u:%g $out/file
		mkdir /mnt; mount -t tmpfs none /mnt; echo mounted
		test -d /sys/kernel; touch /etc/mine
	''`)
	options := map[string]string{"system-features": "uid-range"}
	refused := run(t, kiln.build(t, options, nil, target{drv: drv}))
	want := "feature 'uid-range' requires the setting 'auto-allocate-uids' to be enabled"
	if !testenv.Root() {
		want = "feature 'uid-range' needs 65536 user ids, which only kiln as root can give"
	}
	if refused.exit != 1 || !strings.Contains(refused.stderr, want) {
		t.Errorf("exit %d, want 1 and %q:\n%s", refused.exit, want, refused.stderr)
	}
	if !testenv.Root() {
		return
	}
	options["extra-experimental-features"], options["auto-allocate-uids"] = "auto-allocate-uids", "true"
	out := must(t, kiln.build(t, options, nil, target{drv: drv}))[0]
	log := must(t, kilnCommand(t, scene, kiln.store, "log", drv))
	if want := []string{"0", "0", "0 65536", "17:18", "mounted"}; !slices.Equal(log, want) {
		t.Errorf("the builder says %q, want %q", log, want)
	}
	for _, line := range walk(t, kiln.store+out) {
		if !strings.Contains(line, "owner=0:0") {
			t.Errorf("in the store: %s", line)
		}
	}
	verify(t, scene, kiln.store)
	if snap := take(t, kiln); len(snap.strays)+len(snap.state) > 0 {
		t.Errorf("left in the store: %s", strings.Join(append(snap.strays, snap.state...), " "))
	}
}
