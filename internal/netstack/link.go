// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"bytes"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is an interface without a link layer, whose far end is a function.
type link struct {
	mtu        atomic.Uint32
	out        func([]byte)
	dispatcher stack.NetworkDispatcher
}

func newLink(mtu int, out func([]byte)) *link {
	l := &link{out: out}
	if out == nil {
		l.out = func([]byte) {}
	}
	l.mtu.Store(uint32(mtu))
	return l
}

// WritePackets is stack.LinkWriter's.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for _, p := range pkts.AsSlice() {
		v := p.ToView()
		l.out(bytes.Clone(v.AsSlice()))
		v.Release()
	}
	return pkts.Len(), nil
}

func (l *link) MTU() uint32                                  { return l.mtu.Load() }
func (l *link) SetMTU(mtu uint32)                            { l.mtu.Store(mtu) }
func (l *link) Attach(d stack.NetworkDispatcher)             { l.dispatcher = d }
func (l *link) IsAttached() bool                             { return l.dispatcher != nil }
func (l *link) ParseHeader(*stack.PacketBuffer) bool         { return true }
func (l *link) ARPHardwareType() header.ARPHardwareType      { return header.ARPHardwareNone }
func (l *link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityNone }
func (l *link) LinkAddress() tcpip.LinkAddress               { return "" }
func (l *link) MaxHeaderLength() uint16                      { return 0 }
func (l *link) SetLinkAddress(tcpip.LinkAddress)             {}
func (l *link) AddHeader(*stack.PacketBuffer)                {}
func (l *link) SetOnCloseAction(func())                      {}
func (l *link) Close()                                       {}
func (l *link) Wait()                                        {}
