package local

import (
	"hash"
	"sync"
)

const (
	digestBlock  = 256 << 10 // bytes that are handed to the goroutine at a time
	digestBlocks = 4         // that may wait for it
)

var blocks = sync.Pool{New: func() any { b := make([]byte, 0, digestBlock); return &b }}

// takeBlock gives an empty block of memory, which giveBlock takes back.
func takeBlock() *[]byte { return blocks.Get().(*[]byte) }

func giveBlock(b *[]byte) {
	*b = (*b)[:0]
	blocks.Put(b)
}

// digest is an io.Writer that feeds hashes. Short streams are hashed as they
// come. From the second block on a goroutine does it, so that hashing and writing
// a long stream take two processors. wait must be called at the end.
type digest struct {
	hashes []hash.Hash
	size   int64
	block  *[]byte // is being filled
	queue  chan *[]byte
	done   chan struct{}
}

func newDigest(hashes ...hash.Hash) *digest { return &digest{hashes: hashes} }

func (d *digest) Write(p []byte) (int, error) {
	d.size += int64(len(p))
	if d.size < digestBlock {
		d.feed(p)
		return len(p), nil
	}
	for rest := p; len(rest) > 0; {
		if d.block == nil {
			d.block = takeBlock()
		}
		b := *d.block
		n := copy(b[len(b):cap(b)], rest)
		*d.block, rest = b[:len(b)+n], rest[n:]
		if len(*d.block) == cap(*d.block) {
			d.send()
		}
	}
	return len(p), nil
}

func (d *digest) feed(p []byte) {
	for _, h := range d.hashes {
		h.Write(p)
	}
}

// send gives the block to the goroutine.
func (d *digest) send() {
	if d.queue == nil {
		d.queue, d.done = make(chan *[]byte, digestBlocks), make(chan struct{})
		go func() {
			defer close(d.done)
			for b := range d.queue {
				d.feed(*b)
				giveBlock(b)
			}
		}()
	}
	d.queue <- d.block
	d.block = nil
}

// wait returns when everything that was written is in the hashes. Nothing may be
// written after it.
func (d *digest) wait() {
	if d.queue != nil {
		close(d.queue)
		<-d.done
		d.queue = nil
	}
	if d.block != nil {
		d.feed(*d.block)
		giveBlock(d.block)
		d.block = nil
	}
}
