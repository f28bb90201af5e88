package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// inner makes a container of the image's tree inside of a sandbox of kiln's, and has kiln
// build in it. The builder is the root of its user namespace (the feature uid-range).
const inner = `mkdir root
cp -r "$tree"/. root
chmod -R u+w root
mount --bind root root
cd root
mkdir -p dev proc sys old tmp root
chmod 1777 tmp
mount --rbind /dev dev
mount -t proc proc proc
pivot_root . old
cd /
export PATH=/usr/bin:/bin HOME=/root NIX_CONFIG="substituters ="
kiln build -v -L /usr/share/kiln/demo.json
echo done > /old$out
`

// nested has kiln build a derivation whose builder is a container with kiln, which builds the
// demo.
func (s *suite) nested(ctx context.Context) (string, error) {
	dir := filepath.Join(s.dir, "nested")
	if err := os.MkdirAll(filepath.Join(dir, "tree"), 0o755); err != nil {
		return "", err
	}
	container := s.name()
	if out, err := s.engine.docker(ctx, "create", "--name", container, imageRoot); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	defer (&server{suite: s, name: container}).remove()
	tar := filepath.Join(dir, "tree.tar")
	if out, err := s.engine.docker(ctx, "export", "-o", tar, container); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	if out, err := exec.CommandContext(ctx, "tar", "-C", filepath.Join(dir, "tree"), "-xf", tar, "--no-same-owner", "--exclude=dev/*", "--exclude=.dockerenv").CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack the image: %w: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "inner.sh"), []byte(inner), 0o644); err != nil {
		return "", err
	}
	const script = `set -e
tree=$(kiln store add --name tree /nested/tree)
script=$(kiln store add /nested/inner.sh)
cat > /tmp/nested.json <<EOF
{"name": "nested", "version": 4, "system": "%s", "builder": "/bin/sh", "args": ["-ec", ". $script"],
 "env": {"name": "nested", "tree": "$tree", "requiredSystemFeatures": "uid-range", "out": "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"},
 "inputs": {"srcs": ["${tree##*/}", "${script##*/}"], "drvs": {}}, "outputs": {"out": {"method": "nar", "hashAlgo": "sha256"}}}
EOF
exec kiln build -L -v --option substituters "" --option auto-allocate-uids true /tmp/nested.json
`
	out, code, err := s.engine.run(ctx, slices.Concat(s.largest, []string{"-v", dir + ":/nested:ro", "-e",
		"NIX_CONFIG=extra-experimental-features = ca-derivations auto-allocate-uids cgroups", "--entrypoint", "sh", imageRoot, "-c", fmt.Sprintf(script, system())})...)
	if err != nil || code != 0 || strings.Count(out, "isolation of ") != 2 {
		return "", unexpected(err, "exit code %d: %s", code, out)
	}
	return "built, both in full isolation", nil
}
