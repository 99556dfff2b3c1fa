// SPDX-License-Identifier: Apache-2.0

// Package tuntest has a tun.Device that lives in memory, for programs and tests that want no kernel and no privilege,
// and the test of the contract that every Device is held to. A device of one's own is tested like this:
//
//	func TestMyDevice(t *testing.T) {
//		tuntest.TestDevice(t, func(t *testing.T) (tun.Device, tuntest.Far) {
//			near, far := ... // far is the other end of its wire
//			t.Cleanup(func() { near.Close() })
//			return near, far
//		})
//	}
//
// Three things to know about the Devices of Pipe: what is written is copied, so the buffers of both ends stay their
// owners'; all methods may be called from several goroutines at once; a Write never waits, and a packet that finds the
// queue full is refused. There is no clock. The example of Pipe shows both ends.
package tuntest
