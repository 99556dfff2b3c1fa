// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"fmt"

	"github.com/tidegate/tidegate/packet"
)

// Device is a network interface at the IP layer, read and written in batches. Read and Write may run at the same time;
// two Reads, or two Writes, of one Device may not.
type Device interface {
	// Name is the interface's name.
	Name() string
	// MTU is the largest IP packet that the interface takes, in bytes. A super-packet may be larger.
	MTU() (int, error)
	// BatchSize is how many packets one Read can return at most, and how many a Write takes best.
	BatchSize() int
	// BufferSize is what each buffer given to Read must hold, headroom included.
	BufferSize() int
	// Read waits until there is at least one packet and fills ps[:n]. The caller owns all buffers: each ps[i].Buf has
	// BufferSize bytes; Read sets Off (packet.Headroom), Len and Offload.
	// After Close it returns os.ErrClosed.
	Read(ps []packet.Packet) (n int, err error)
	// Write sends ps, in order, and returns how many were taken. A packet that the interface refuses (too big, the
	// queue is full) does not stop those after it: it is counted in the returned error, of type *WriteError.
	// The bytes in front of a packet, up to packet.Headroom of them, may be overwritten. A device without offloads
	// completes partial checksums in place (packet.Complete).
	Write(ps []packet.Packet) (n int, err error)
	// Close ends the device and wakes a Read that waits. It may be called more than once.
	Close() error
}

// Keeper is what a Device of the Linux backend is as well: its queue, with the packets that wait there, can go on in
// another Device, of this process or another.
type Keeper interface {
	Device
	// StopReading makes Read return os.ErrClosed, also one that waits, and leaves what is in the queue there. A batch that
	// was read before can still be written.
	StopReading() error
	// Descriptor is another descriptor of the queue, for FromFD; the caller owns it. As long as there is one, packets wait.
	Descriptor() (fd int, err error)
}

// Lender is a Device with buffers of its own, which it lends: its Read copies every packet, Lend none. A goroutine that
// reads much does best locked to its thread (runtime.LockOSThread), where the kernel leaves what it has read.
type Lender interface {
	Device
	// Lend is Read, but it sets each of ps[:n] whole: Buf is a buffer of the Device with BufferSize bytes. The caller may
	// change what is in it, and write it to any Device, until its next Lend or Read; then the buffer is used again.
	Lend(ps []packet.Packet) (n int, err error)
}

// Observed is a Device that tells what it is; those of the Linux backends do.
type Observed interface {
	Device
	// Stats may be called at any time.
	Stats() Stats
}

// Stats are about a Device since it was opened.
type Stats struct {
	// Backend is how it reads and writes: BackendLinux or BackendURing.
	Backend string
	// Why is what speaks against BackendURing where Options left the choice to Open, or nil.
	Why error
	// Sleeps is how often Read found nothing and waited.
	Sleeps uint64
	// Exhausted is how often all buffers were lent or full, so that packets waited in the queue. BackendURing only.
	Exhausted uint64
}

// WriteError is returned by Write when some packets of a batch were refused.
type WriteError struct {
	// Refused is how many, First the error of the first of them.
	Refused int
	First   error
}

// Error tells how many packets were refused, and why the first one was.
func (e *WriteError) Error() string {
	if e.Refused == 1 {
		return "a packet was refused: " + e.First.Error()
	}
	return fmt.Sprintf("%d packets were refused, the first: %v", e.Refused, e.First)
}

// Unwrap is the first error.
func (e *WriteError) Unwrap() error { return e.First }

// refuse counts a packet that was refused with err; e is nil before the first.
func refuse(e *WriteError, err error) *WriteError {
	if e == nil {
		e = &WriteError{First: err}
	}
	e.Refused++
	return e
}

var errEmpty = errors.New("the packet is empty")
