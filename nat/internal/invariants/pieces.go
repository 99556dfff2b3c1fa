// SPDX-License-Identifier: Apache-2.0

package invariants

import (
	"fmt"
	"slices"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
)

// hold keeps a fragment until its datagram is complete. Of an older set with the same name each piece gives way to the
// one that takes its place.
func (l *Laws) hold(from nat.AttachmentID, b []byte) map[int][]byte {
	b = b[:be.Uint16(b[2:])]
	src, dst := addrs(b)
	d := datagram{from, src, dst, b[9], be.Uint16(b[4:])}
	if l.held[d] == nil {
		l.held[d] = map[int][]byte{}
	}
	l.held[d][offset(b)] = slices.Clone(b)
	return l.held[d]
}

// release is the datagram that b completes.
func (l *Laws) release(from nat.AttachmentID, b []byte) ([]byte, error) {
	held := l.hold(from, b)
	src, dst := addrs(b)
	delete(l.held, datagram{from, src, dst, b[9], be.Uint16(b[4:])})
	var all [][]byte
	for at := 0; ; {
		p, ok := held[at]
		if !ok {
			return nil, fmt.Errorf("it completed a datagram whose piece at %d never came: %s", at, craft.Describe(b))
		}
		all = append(all, p)
		if be.Uint16(p[6:])&0x2000 == 0 {
			return join(all)
		}
		at += len(p) - int(p[0]&15)*4
	}
}

func offset(b []byte) int { return int(be.Uint16(b[6:])&0x1fff) * 8 }

// join is the datagram of all its pieces, which come in order and share one identification. If itself a piece, the whole
// of them is one.
func join(all [][]byte) ([]byte, error) {
	if len(all) == 0 {
		return nil, fmt.Errorf("a datagram of no pieces")
	}
	first, last := all[0], all[len(all)-1]
	whole := slices.Clone(first)
	next := offset(first)
	for i, p := range all {
		src, dst := addrs(p)
		s, d := addrs(first)
		if offset(p) != next || be.Uint16(p[4:]) != be.Uint16(first[4:]) || src != s || dst != d || i < len(all)-1 && be.Uint16(p[6:])&0x2000 == 0 {
			return nil, fmt.Errorf("piece %d of %d does not belong: %s", i+1, len(all), craft.Describe(p))
		}
		body := p[int(p[0]&15)*4:]
		if i > 0 {
			whole = append(whole, body...)
		}
		next += len(body)
	}
	be.PutUint16(whole[2:], uint16(len(whole)))
	be.PutUint16(whole[6:], be.Uint16(first[6:])&0xdfff|be.Uint16(last[6:])&0x2000)
	return craft.SetTTL(whole, whole[8]), nil
}
