package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// The names of what is made. They are for this test, so that no image of anybody's is
// replaced.
const (
	imageRoot      = "kiln-test"
	imageRootless  = "kiln-test:rootless"
	imageScheduler = "kiln-test:scheduler"
)

// maxImage is how large the image may be, in bytes.
const maxImage = 40_000_000

// makeImages makes all targets of the Dockerfile.
func (e *engine) makeImages(ctx context.Context) error {
	if err := e.base(ctx, "golang:1.26", golangBase); err != nil {
		return err
	}
	args := []string{"build", "--network", "host"}
	for _, name := range []string{"GOPROXY", "GOSUMDB", "GOFLAGS"} {
		if value, err := exec.CommandContext(ctx, "go", "env", name).Output(); err == nil {
			args = append(args, "--build-arg", name+"="+strings.TrimSpace(string(value)))
		}
	}
	for _, target := range []struct{ name, tag string }{{"root", imageRoot}, {"rootless", imageRootless}, {"scheduler", imageScheduler}} {
		fmt.Fprintf(os.Stderr, "Building the target %s\n", target.name)
		if out, err := e.docker(ctx, append(args, "--target", target.name, "-t", target.tag, ".")...); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	return nil
}

// hasImages tells whether the images are there.
func (e *engine) hasImages(ctx context.Context) bool {
	_, err := e.docker(ctx, "image", "inspect", imageRoot, imageRootless, imageScheduler)
	return err == nil
}

// base sees that an image is there that the Dockerfile begins with: it is pulled, or made
// from what this machine has.
func (e *engine) base(ctx context.Context, name string, make func(context.Context) ([]byte, error)) error {
	if _, err := e.docker(ctx, "image", "inspect", name); err == nil {
		return nil
	}
	if e.daemon == nil { // otherwise it would be pulled for one run
		if _, err := e.docker(ctx, "pull", name); err == nil {
			return nil
		}
	}
	fmt.Fprintf(os.Stderr, "Making an image in the place of %s from what this machine has\n", name)
	tree, err := make(ctx)
	if err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	if out, err := e.feed(ctx, tree, "import", "-c", "ENV PATH=/usr/local/go/bin:/usr/bin:/bin HOME=/root", "-", name); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// golangBase is an image with this machine's Go, its certificates and busybox, which has all
// that the Dockerfile runs.
func golangBase(ctx context.Context) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := addBusybox(ctx, w); err != nil {
		return nil, err
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("find Go: %w", err)
	}
	if err := addTree(w, strings.TrimSpace(string(root)), "usr/local/go"); err != nil {
		return nil, err
	}
	if err := addFile(w, "/etc/ssl/certs/ca-certificates.crt", "etc/ssl/certs/ca-certificates.crt"); err != nil {
		return nil, err
	}
	return buf.Bytes(), w.Close()
}

// addBusybox adds busybox with a link for each of its programs, and the directories that
// everything expects.
func addBusybox(ctx context.Context, w *tar.Writer) error {
	if err := need(ctx, "busybox"); err != nil {
		return err
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := addFile(w, path, "bin/busybox"); err != nil {
		return err
	}
	list, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		if name == "busybox" {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}); err != nil {
			return err
		}
	}
	for name, mode := range map[string]int64{"tmp/": 0o1777, "root/": 0o700, "etc/": 0o755} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}); err != nil {
			return err
		}
	}
	return nil
}

func addTree(w *tar.Writer, dir, as string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if entry.IsDir() && (rel == "test" || rel == "doc" || rel == "api" || entry.Name() == "testdata") {
			return fs.SkipDir // half of it, and nothing is built from it
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		return addFile(w, path, filepath.Join(as, rel))
	})
}

func addFile(w *tar.Writer, path, as string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: as, Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// size checks how large the image is.
func (e *engine) size(ctx context.Context) (string, error) {
	out, err := e.docker(ctx, "image", "inspect", "-f", "{{.Size}}", imageRoot)
	if err != nil {
		return "", err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err == nil && n >= maxImage {
		err = fmt.Errorf("the image has %d bytes, and %d are too many", n, maxImage)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6), err
}

// contents checks that the image has what the documentation lists, and nothing else.
func (e *engine) contents(ctx context.Context, listed []string) (string, error) {
	out, code, err := e.run(ctx, "--entrypoint", "/bin/busybox", imageRoot, "find", "/", "-xdev", "(", "-type", "f", "-o", "-type", "l", ")",
		"-not", "-path", "/proc/*", "-not", "-path", "/sys/*", "-not", "-path", "/dev/*")
	if err != nil || code != 0 {
		return "", unexpected(err, "list the image: exit code %d: %s", code, out)
	}
	known := make(map[string]bool)
	for _, name := range append(listed, "/.dockerenv", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab") {
		known[name] = true
	}
	n := 0
	for _, name := range strings.Fields(out) {
		if !known[name] {
			return "", fmt.Errorf("'%s' is in the image and not in the list", name)
		}
		n++
	}
	for _, name := range listed {
		if !strings.Contains("\n"+out, "\n"+name+"\n") {
			return "", fmt.Errorf("'%s' is in the list and not in the image", name)
		}
	}
	return fmt.Sprintf("%d files", len(listed)), nil
}
