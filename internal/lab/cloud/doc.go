// SPDX-License-Identifier: Apache-2.0

// Package cloud gives a region a data path on one machine: each instance of its model is a lab.Host with a TUN for each of
// its network interfaces, each VPC an edge with an engine, and around them is an internet, one more host, in which clients
// and servers can be run. Instances come, stop and go with the model.
//
// A Cloud is the region.Engines of a region, and its Observe: policies are in force before an interface comes up, and are
// withdrawn before one goes down. Nothing of it has a name on the machine, and the kernel takes it away with the process;
// see package lab. It needs Linux, root and /dev/net/tun.
package cloud
