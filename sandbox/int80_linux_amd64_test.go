package sandbox

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const map32bit = unix.MAP_32BIT

// int80 makes a system call by the 32-bit way into the kernel.
func int80(number uintptr, args [5]uintptr) unix.Errno {
	// The argument, a pointer, comes in rax: the calling convention of Go functions
	// without results.
	code := []byte{
		0x50, 0x53, 0x51, 0x52, 0x56, 0x57, // push rax, rbx, rcx, rdx, rsi, rdi
		0x8b, 0x58, 0x08, // mov ebx, [rax+8]
		0x8b, 0x48, 0x10, // mov ecx, [rax+16]
		0x8b, 0x50, 0x18, // mov edx, [rax+24]
		0x8b, 0x70, 0x20, // mov esi, [rax+32]
		0x8b, 0x78, 0x28, // mov edi, [rax+40]
		0x8b, 0x00, // mov eax, [rax]
		0xcd, 0x80, // int 0x80
		0x5f, 0x5e, 0x5a, 0x59, 0x5b, // pop rdi, rsi, rdx, rcx, rbx
		0x49, 0x89, 0xc0, // mov r8, rax
		0x58,             // pop rax
		0x44, 0x89, 0x00, // mov [rax], r8d
		0xc3, // ret
	}
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic(err)
	}
	defer unix.Munmap(page)
	copy(page, code)
	frame := [6]uintptr{number, args[0], args[1], args[2], args[3], args[4]}
	entry := &page[0]
	function := &entry
	(*(*func(*[6]uintptr))(unsafe.Pointer(&function)))(&frame)
	if r := int32(frame[0]); r < 0 {
		return unix.Errno(-r)
	}
	return 0
}
