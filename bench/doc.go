// SPDX-License-Identifier: Apache-2.0

// Package bench measures the engine, in the users' units, beside the frozen floor: the least that any NAT44 must do
// with a packet, and beside gVisor's stack. All of it takes most of an hour and 6 GB; -short leaves out what needs 10,000,000
// flows, and rows that differ from others in nothing but 1,000,000:
//
//	go test ./bench -run '^$' -bench . -benchmem -cpu 1 -short
//
// With -limits a row of the engine that costs more than 1.5 times its goal in floors fails, if it runs for more than one
// operation.
package bench
