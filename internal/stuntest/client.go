// SPDX-License-Identifier: Apache-2.0

package stuntest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/pion/stun/v3"
)

// Mapping is when a NAT reuses an external endpoint (RFC 4787, section 4.1).
type Mapping int

// Filtering is whose packets a NAT lets in to an external endpoint (RFC 4787, section 5).
type Filtering int

const (
	// EndpointIndependent: one external endpoint, whoever the host talks to.
	EndpointIndependent Mapping = iota + 1
	// AddressDependent: one for each remote address.
	AddressDependent
	// AddressAndPortDependent: one for each remote address and port.
	AddressAndPortDependent
)

const (
	// FilterEndpointIndependent: anybody's.
	FilterEndpointIndependent Filtering = iota + 1
	// FilterAddressDependent: any port's of an address that the host has sent to.
	FilterAddressDependent
	// FilterAddressAndPortDependent: only the endpoints' that the host has sent to.
	FilterAddressAndPortDependent
)

var kinds = [...]string{"unknown", "endpoint-independent", "address-dependent", "address-and-port-dependent"}

// String is the name in RFC 4787.
func (m Mapping) String() string { return kinds[m] }

// String is the name in RFC 4787.
func (f Filtering) String() string { return kinds[f] }

// Behaviour is how a NAT treats UDP.
type Behaviour struct {
	Mapping   Mapping
	Filtering Filtering
	// Hairpin says that one socket inside reaches another at its external endpoint, and is seen there with its external
	// address (RFC 4787 REQ-9). Both send, so that a filter is in the way only where the mapping depends on the destination.
	Hairpin bool
	// Mapped is the external endpoint that the server saw first.
	Mapped netip.AddrPort
}

// Client is a host inside. Its methods may not be called at the same time; they leave no socket open.
type Client struct {
	// Open opens a UDP socket of the host at a port of the system's choice.
	Open func() (net.PacketConn, error)
	// Server is the primary address of a Server.
	Server netip.AddrPort
	// Wait is how long the first try waits for an answer, each further one twice as long as the one before; 0 is 500 ms.
	// Tries is how many there are; 0 is three. That nothing comes is an answer in some tests, so both are felt.
	Wait  time.Duration
	Tries int
	// Sleep lets time pass, for Alive and Lifetime; nil is time.Sleep.
	Sleep func(time.Duration)
}

// ErrNoAnswer is in the chain of errors that say that the server could not be reached.
var ErrNoAnswer = errors.New("no answer")

// Discover does the tests of RFC 5780, sections 4.3 to 4.5. The context is looked at before each try.
func (c *Client) Discover(ctx context.Context) (b Behaviour, err error) {
	if b.Mapped, b.Mapping, err = c.Mapping(ctx); err != nil {
		return b, fmt.Errorf("discover the mapping: %w", err)
	}
	if b.Filtering, err = c.filtering(ctx); err != nil {
		return b, fmt.Errorf("discover the filtering: %w", err)
	}
	if b.Hairpin, err = c.hairpin(ctx); err != nil {
		return b, fmt.Errorf("discover hairpinning: %w", err)
	}
	return b, nil
}

// Mapping is the part of Discover that asks three of the server's endpoints from one socket (section 4.3).
func (c *Client) Mapping(ctx context.Context) (mapped netip.AddrPort, m Mapping, err error) {
	conn, err := c.Open()
	if err != nil {
		return mapped, 0, err
	}
	defer conn.Close()
	first, err := c.ask(ctx, conn, c.Server)
	if err != nil {
		return mapped, 0, err
	}
	if first.other.Addr() == c.Server.Addr() || first.other.Port() == c.Server.Port() {
		return mapped, 0, fmt.Errorf("%s names %s as its other address; discovery needs another address and another port", c.Server, first.other)
	}
	second, err := c.ask(ctx, conn, netip.AddrPortFrom(first.other.Addr(), c.Server.Port()))
	if err != nil {
		return mapped, 0, err
	}
	if second.mapped == first.mapped {
		return first.mapped, EndpointIndependent, nil
	}
	third, err := c.ask(ctx, conn, first.other)
	if err != nil {
		return mapped, 0, err
	}
	if third.mapped == second.mapped {
		return first.mapped, AddressDependent, nil
	}
	return first.mapped, AddressAndPortDependent, nil
}

// filtering has the server answer from where it was not asked (section 4.4), to a socket that has sent nowhere else: the
// tests of the mapping would have opened the filter.
func (c *Client) filtering(ctx context.Context) (Filtering, error) {
	conn, err := c.Open()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := c.ask(ctx, conn, c.Server); err != nil {
		return 0, err
	}
	for _, t := range []struct {
		change uint32
		means  Filtering
	}{{changeIP | changePort, FilterEndpointIndependent}, {changePort, FilterAddressDependent}} {
		_, err := c.ask(ctx, conn, c.Server, attribute(stun.AttrChangeRequest, binary.BigEndian.AppendUint32(nil, t.change)))
		if err == nil {
			return t.means, nil
		}
		if !errors.Is(err, ErrNoAnswer) {
			return 0, err
		}
	}
	return FilterAddressAndPortDependent, nil
}

// hairpin sends between the external endpoints of two sockets (section 4.5).
func (c *Client) hairpin(ctx context.Context) (bool, error) {
	var conns [2]net.PacketConn
	var mapped [2]netip.AddrPort
	for i := range conns {
		conn, err := c.Open()
		if err != nil {
			return false, err
		}
		defer conn.Close()
		a, err := c.ask(ctx, conn, c.Server)
		if err != nil {
			return false, err
		}
		conns[i], mapped[i] = conn, a.mapped
	}
	req, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	if err != nil {
		return false, err
	}
	for wait := range c.tries() {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		for _, i := range []int{1, 0} { // the first opens the filter of socket 1 for socket 0
			if _, err := conns[i].WriteTo(req.Raw, net.UDPAddrFromAddrPort(mapped[1-i])); err != nil {
				return false, err
			}
		}
		_, from, err := receive(conns[1], req.TransactionID, time.Now().Add(wait))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err == nil && from.Addr() == mapped[0].Addr(), err
		}
	}
	return false, nil
}

// answer is what a response says.
type answer struct{ mapped, other netip.AddrPort }

// ask sends a request from conn until it is answered there.
func (c *Client) ask(ctx context.Context, conn net.PacketConn, to netip.AddrPort, extra ...stun.Setter) (answer, error) {
	m, err := c.exchange(ctx, conn, conn, to, extra...)
	if err != nil {
		return answer{}, err
	}
	return read(m)
}

// exchange sends a request from one socket until something of the transaction arrives at another.
func (c *Client) exchange(ctx context.Context, from, at net.PacketConn, to netip.AddrPort, extra ...stun.Setter) (*stun.Message, error) {
	req, err := stun.Build(append([]stun.Setter{stun.TransactionID, stun.BindingRequest}, extra...)...)
	if err != nil {
		return nil, err
	}
	for wait := range c.tries() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, err := from.WriteTo(req.Raw, net.UDPAddrFromAddrPort(to)); err != nil {
			return nil, err
		}
		m, _, err := receive(at, req.TransactionID, time.Now().Add(wait))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return m, err
		}
	}
	return nil, fmt.Errorf("%s: %w", to, ErrNoAnswer)
}

// tries yields how long each try waits.
func (c *Client) tries() func(yield func(time.Duration) bool) {
	wait, n := c.Wait, c.Tries
	if wait == 0 {
		wait = 500 * time.Millisecond
	}
	if n == 0 {
		n = 3
	}
	return func(yield func(time.Duration) bool) {
		for range n {
			if !yield(wait) {
				return
			}
			wait *= 2
		}
	}
}

// receive waits for the message of a transaction, and passes over all else.
func receive(conn net.PacketConn, id [stun.TransactionIDSize]byte, until time.Time) (*stun.Message, netip.AddrPort, error) {
	if err := conn.SetReadDeadline(until); err != nil {
		return nil, netip.AddrPort{}, err
	}
	for buf := make([]byte, maxMessage); ; {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return nil, netip.AddrPort{}, err
		}
		if m, ok := decode(buf[:n]); ok && m.TransactionID == id {
			a, err := netip.ParseAddrPort(from.String())
			return m, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), err
		}
	}
}

// read is for responses.
func read(m *stun.Message) (answer, error) {
	var mapped stun.XORMappedAddress
	var other stun.OtherAddress
	if m.Type != stun.BindingSuccess {
		return answer{}, fmt.Errorf("the server answers %s", m.Type)
	}
	if err := errors.Join(mapped.GetFrom(m), other.GetFrom(m)); err != nil {
		return answer{}, fmt.Errorf("read the server's answer: %w", err)
	}
	return answer{endpoint(mapped.IP, mapped.Port), endpoint(other.IP, other.Port)}, nil
}

func endpoint(ip net.IP, port int) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip) // the library makes it 4 or 16 bytes
	return netip.AddrPortFrom(a.Unmap(), uint16(port))
}

// attribute is one that the library has no type for.
func attribute(t stun.AttrType, value []byte) stun.Setter {
	return stun.RawAttribute{Type: t, Value: value}
}
