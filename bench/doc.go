// SPDX-License-Identifier: Apache-2.0

// Package bench measures the engine, in the users' units, beside the frozen floor: the least that any NAT44 must do
// with a packet. It has benchmarks only, of which -short leaves out those that need 10,000,000 flows:
//
//	go test ./bench -run '^$' -bench . -benchmem -short
package bench
