//go:build unix && !darwin

package conf

func appleVirt() bool { return false }
