// SPDX-License-Identifier: Apache-2.0

// Package packet is one IP packet as the rest of the module passes it around: bytes with headroom, the offload metadata
// that came with them, a borrowed view of the headers, and the arithmetic of internet checksums.
//
// Three things to know:
//
//   - Buffers. A Packet is a plain value around a buffer of the caller's; nothing in this module keeps one after a call
//     returns. The packet is Buf[Off:Off+Len], with Headroom bytes in front that a translation may grow into.
//   - Offload. What an interface card would still have to do is in Packet.Offload: a checksum that is partial, a
//     super-packet to be cut. Rewriting keeps that as it is; Complete and Segment do the work where no card will.
//   - Concurrency and time. There is neither lock nor clock here, and nothing is shared: a value belongs to whoever has it.
//
// A View is parsed once (see the example of View.Parse), and a change of addresses and ports is one Delta for the sums of
// all packets of a flow (see that of Delta). The package knows nothing of devices, sessions or translation, and allocates
// only in functions that say so.
package packet
