// SPDX-License-Identifier: Apache-2.0

// Package packet is one IP packet as the rest of the module passes it around: bytes with headroom, the offload metadata
// that came with them, a borrowed view of the headers, and the arithmetic of internet checksums.
//
// It knows nothing of devices, sessions or translation. It allocates only in functions that say so.
package packet
