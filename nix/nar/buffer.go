package nar

import "sync"

// bufferSize is large enough that system calls and hashes are fed in pieces whose
// own cost does not show.
const bufferSize = 256 << 10

type buffer = [bufferSize]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func takeBuffer() *buffer { return buffers.Get().(*buffer) }

func giveBuffer(b *buffer) { buffers.Put(b) }
