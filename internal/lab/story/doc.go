// SPDX-License-Identifier: Apache-2.0

// Package story is the four-host story of a VPC edge, told and judged: a web server and a bastion with public addresses,
// an application server and a database without, and an internet with a package mirror, a client and a scanner.
//
// It is in three layers, so that each can be exchanged: the steps (what happens, what is expected) know only the model
// and the tools; the tools (a page, a package update, a shell, a scan) know only a Host, and use real programs where a
// Host can run them and Go where it cannot; a World gives the Hosts and the edge between them. NewKernelWorld makes a
// World of Linux network namespaces, NewNetstackWorld one of gVisor stacks in this process.
package story
