// SPDX-License-Identifier: Apache-2.0

package gateway

// Finding is one thing on the machine that concerns the gateway.
type Finding struct {
	// Problem says that it gets in the way; otherwise it is good to know.
	Problem bool
	// What is what was found, Do what to do about it.
	What, Do string
}
