package conf

import "syscall"

// appleVirt asks the kernel whether it can run virtual machines and isn't in one.
func appleVirt() bool {
	if inside, err := syscall.SysctlUint32("kern.hv_vmm_present"); err == nil && inside != 0 {
		return false
	}
	can, err := syscall.SysctlUint32("kern.hv_support")
	return err == nil && can == 1
}
