package nix

// ParseBuildStatus reads what BuildStatus.String writes.
func ParseBuildStatus(name string) (s BuildStatus, ok bool) {
	for s, n := range statusNames {
		if n == name {
			return s, true
		}
	}
	return 0, false
}
