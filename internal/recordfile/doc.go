// SPDX-License-Identifier: Apache-2.0

// Package recordfile is the memory in which a gateway's records outlive its process: a file on a tmpfs, or a memfd, mapped
// shared. Whatever was stored is there for the next process, however this one ended, since the pages belong to the kernel.
//
// # Layout
//
//	0     head: magic, version, check sum, size, boot, then the owner and what it notes for the next
//	4096  counters of the owner, who says what they are
//	8192  records, whose format is package nat's alone
//
// # Rules
//
// One living process owns a file, by a lock (flock) on a descriptor that it shares with nobody: a descriptor that a service
// manager keeps, or that was handed over, is opened again for that. So the lock ends with the process, and never later. The
// head names the owner for messages; nothing depends on that.
//
// A file is made without a name and linked to its place when it is complete, so there is none that is half made. It gets all
// of its memory when it is made: a store can not fail later. Only the owner of the file at a place may put another there.
//
// Somebody with the rights to it could shorten the file under the process, which would die of SIGBUS at its next store, and
// find the file unusable at the next start. A memfd is sealed against that; for a file there is mode 0600, and the
// directory's 0700.
//
// It has to be a tmpfs: pages of a file on a disk are written back, and a store waits for a page that is under way.
package recordfile
