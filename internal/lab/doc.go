// SPDX-License-Identifier: Apache-2.0

// Package lab puts hosts, links and an edge on one machine: each Host is a set of Linux namespaces (network, mounts, host
// name) with real kernels' behaviour and real programs in it, and an Edge is the loop that joins their devices to a nat
// engine.
//
// Nothing of a lab has a name outside of it. Namespaces are held by a thread and a descriptor, files live in a tmpfs that
// only the host sees, and programs die with the thread that started them; so whatever way the process ends, kill -9
// included, the kernel takes the whole lab away. The machine's own network namespace is never touched.
//
// The namespaces need Linux and root. Edge, Log and Capture need neither: they work on any tun.Device.
package lab

// Dir is a directory that each host has for itself, in memory, and that is gone with it.
const Dir = "/run/lab"
