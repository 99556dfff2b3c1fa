// SPDX-License-Identifier: Apache-2.0

package stuntest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/pion/stun/v3"
)

// Server answers STUN Binding requests on four sockets: each of two addresses with each of two ports. It honours
// CHANGE-REQUEST and RESPONSE-PORT (RFC 5780, section 6).
type Server struct {
	conns [2][2]net.PacketConn // by address, then port
	addrs [2][2]netip.AddrPort
	done  sync.WaitGroup
}

// Listen opens the sockets with listen and serves until Close.
func Listen(listen func(netip.AddrPort) (net.PacketConn, error), addrs [2]netip.Addr, ports [2]uint16) (*Server, error) {
	s := &Server{}
	for i, a := range addrs {
		for j, port := range ports {
			at := netip.AddrPortFrom(a, port)
			c, err := listen(at)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("stun server at %s: %w", at, err), s.Close())
			}
			s.conns[i][j], s.addrs[i][j] = c, at
		}
	}
	for i := range addrs {
		for j := range ports {
			s.done.Go(func() { s.serve(i, j) })
		}
	}
	return s, nil
}

// Addr is the server's primary address, which clients are told.
func (s *Server) Addr() netip.AddrPort { return s.addrs[0][0] }

// Close closes the sockets and waits for the goroutines that read from them.
func (s *Server) Close() error {
	var errs []error
	for _, pair := range s.conns {
		for _, c := range pair {
			if c != nil {
				errs = append(errs, c.Close())
			}
		}
	}
	s.done.Wait()
	return errors.Join(errs...)
}

func (s *Server) serve(i, j int) {
	for buf := make([]byte, maxMessage); ; {
		n, from, err := s.conns[i][j].ReadFrom(buf)
		if err != nil {
			return
		}
		if to, err := netip.ParseAddrPort(from.String()); err == nil {
			s.answer(i, j, to, buf[:n])
		}
	}
}

// answer answers what came from a client to the socket (i, j), if it is a request.
func (s *Server) answer(i, j int, client netip.AddrPort, b []byte) {
	req, ok := decode(b)
	if !ok || req.Type != stun.BindingRequest {
		return
	}
	fromI, fromJ, to := i, j, client
	if v, err := req.Get(stun.AttrChangeRequest); err == nil && len(v) == 4 {
		flags := binary.BigEndian.Uint32(v)
		if flags&changeIP != 0 {
			fromI = 1 - i
		}
		if flags&changePort != 0 {
			fromJ = 1 - j
		}
	}
	if v, err := req.Get(attrResponsePort); err == nil && len(v) >= 2 {
		to = netip.AddrPortFrom(client.Addr(), binary.BigEndian.Uint16(v))
	}
	origin, other := s.addrs[fromI][fromJ], s.addrs[1-i][1-j]
	res, err := stun.Build(req, stun.BindingSuccess,
		&stun.XORMappedAddress{IP: client.Addr().AsSlice(), Port: int(client.Port())},
		&stun.ResponseOrigin{IP: origin.Addr().AsSlice(), Port: int(origin.Port())},
		&stun.OtherAddress{IP: other.Addr().AsSlice(), Port: int(other.Port())})
	if err != nil {
		return
	}
	// An answer that cannot be sent is one that is lost: the client asks again.
	_, _ = s.conns[fromI][fromJ].WriteTo(res.Raw, net.UDPAddrFromAddrPort(to))
}

// maxMessage is enough for what the two sides send, and cuts off what is something else.
const maxMessage = 1024

// What RFC 5780, sections 7.2 and 7.5, adds to STUN and the library leaves out.
const (
	changeIP, changePort = 4, 2

	attrResponsePort = stun.AttrType(0x0027)
)

func decode(b []byte) (m *stun.Message, ok bool) {
	m = &stun.Message{}
	return m, stun.Decode(b, m) == nil
}
