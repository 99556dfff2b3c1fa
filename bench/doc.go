// SPDX-License-Identifier: Apache-2.0

// Package bench measures the engine, in the users' units, beside the frozen floor: the least that any NAT44 must do
// with a packet. It has benchmarks only:
//
//	go test ./bench -run '^$' -bench . -benchmem -cpu 1
package bench
