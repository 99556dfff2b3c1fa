// SPDX-License-Identifier: Apache-2.0

// Package vpc is the edge of a virtual private cloud as a model, in the words and by the rules of Amazon VPC: networks,
// subnets, route tables, instances and their network interfaces, lent public addresses, Elastic IPs, internet gateways, NAT
// gateways, transit gateways and security groups. It says who may do what, and compiles the answer into a nat.Policy;
// packets are the business of package nat.
//
// Three things to know:
//
//   - Time is an argument of the calls that depend on it. The model does no I/O and reads no clock; equal seeds and calls
//     make equal models, ids included.
//   - Each call is one transaction: it changes everything it is for, or returns an *Error with the code that EC2 has for
//     the case and leaves no trace. What it returns is a copy, and the caller's.
//   - Concurrency: a Model is for one goroutine at a time. Whoever owns it holds one lock over a change, its Policy and the
//     engine that takes it (see the example of Model.Policy).
//
// A public address has one owner at any time. It is idle in the pool, lent to a running instance, or allocated as an
// Elastic IP; an Elastic IP is free, on a private address of a network interface, or on a NAT gateway.
//
// An instance that names no security group is in the default group of its VPC, which lets everything out, and in from one
// another: as in AWS, who is to be reached needs a group that says so.
//
// Changes take effect at once, but for the addresses of NAT gateways, which drain until Model.Advance finds their time
// over. States that the real cloud shows while it is still busy (pending, stopping, deleting) do not occur, and a deleted
// object is gone, save terminated instances, which can be looked up for an hour.
package vpc
