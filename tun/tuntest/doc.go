// SPDX-License-Identifier: Apache-2.0

// Package tuntest has a tun.Device that lives in memory, for programs and tests that want no kernel and no privilege,
// and the test of the contract that every Device is held to.
package tuntest
