//go:build !linux

package build

import "github.com/kilnbuild/kiln/internal/dirfd"

// diskUsage is the size of an entry of an open directory, in bytes.
func diskUsage(dir int, name string) (size int64, isDir bool, err error) {
	var st dirfd.Stat
	if err := dirfd.StatAt(dir, name, &st); err != nil {
		return 0, false, err
	}
	isDir = st.Type() == dirfd.Directory
	return max(st.Size, minFileSize), isDir, nil
}
