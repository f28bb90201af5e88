package build

import "golang.org/x/sys/unix"

// diskUsage is what an entry of an open directory takes on disk, in bytes. A file with
// several names counts in parts, so that all of them together count once.
func diskUsage(dir int, name string) (size int64, isDir bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, false, err
	}
	const block = 512
	size = max(st.Blocks*block, minFileSize)
	if isDir = st.Mode&unix.S_IFMT == unix.S_IFDIR; !isDir && st.Nlink > 1 {
		size /= int64(st.Nlink)
	}
	return size, isDir, nil
}
