// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"bytes"
	"fmt"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is an interface without a link layer, whose far end is a function.
type link struct {
	mtu          atomic.Uint32
	out          func([]byte)
	capabilities stack.LinkEndpointCapabilities
	dispatcher   stack.NetworkDispatcher
}

// newLink makes one; an MTU of 0 means 1,500.
func newLink(mtu int, out func([]byte)) (*link, error) {
	if mtu == 0 {
		mtu = 1500
	}
	if mtu < header.IPv4MinimumMTU {
		return nil, fmt.Errorf("netstack: an MTU of %d is below the %d bytes that IPv4 needs", mtu, header.IPv4MinimumMTU)
	}
	l := &link{out: out}
	if out == nil {
		l.out = func([]byte) {}
	}
	l.mtu.Store(uint32(mtu))
	return l, nil
}

// addInterface gives a stack an interface with its addresses.
func addInterface(s *stack.Stack, id tcpip.NICID, l *link, addrs ...netip.Addr) error {
	if err := s.CreateNIC(id, l); err != nil {
		return fmt.Errorf("netstack: interface: %v", err)
	}
	for _, a := range addrs {
		if !a.Is4() {
			return fmt.Errorf("netstack: %v is no IPv4 address", a)
		}
		p := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddrFrom4(a.As4()).WithPrefix()}
		if err := s.AddProtocolAddress(id, p, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("netstack: address %v: %v", a, err)
		}
	}
	return nil
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
func (l *link) Capabilities() stack.LinkEndpointCapabilities { return l.capabilities }
func (l *link) LinkAddress() tcpip.LinkAddress               { return "" }
func (l *link) MaxHeaderLength() uint16                      { return 0 }
func (l *link) SetLinkAddress(tcpip.LinkAddress)             {}
func (l *link) AddHeader(*stack.PacketBuffer)                {}
func (l *link) SetOnCloseAction(func())                      {}
func (l *link) Close()                                       {}
func (l *link) Wait()                                        {}
