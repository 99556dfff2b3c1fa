// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// explained asks for an explanation of a packet, and looks whether the question changed anything.
func (s *sim) explained(a arrival) (x nat.Explanation, err error) {
	if !s.explain {
		return x, nil
	}
	stats, sessions := s.engine.Stats(s.now), slices.Collect(s.engine.Sessions(s.now))
	p := a.p.Clone()
	x = s.engine.Explain(&p, a.from, s.now)
	switch {
	case !bytes.Equal(p.Buf, a.p.Buf[:len(p.Buf)]) || p.Off != a.p.Off || p.Len != a.p.Len || p.Offload != a.p.Offload:
		err = fmt.Errorf("the explanation changed the packet")
	case s.engine.Stats(s.now) != stats:
		err = fmt.Errorf("the explanation changed the counters from\n%+v to\n%+v", stats, s.engine.Stats(s.now))
	case !slices.Equal(slices.Collect(s.engine.Sessions(s.now)), sessions):
		err = fmt.Errorf("the explanation changed the sessions")
	default: // the books are checked after each operation
		return x, nil
	}
	return x, fmt.Errorf("%w\n%v", err, x)
}

// agrees compares an explanation with what then became of its packet.
func (s *sim) agrees(x nat.Explanation, out packet.Packet, v nat.Verdict) error {
	if !s.explain {
		return nil
	}
	if x.Verdict != v {
		return fmt.Errorf("explained as %v, and then it was %v", x.Verdict, v)
	}
	emitted := s.worker.Emitted()
	if len(emitted) != len(x.Emits) {
		return fmt.Errorf("explained with %d packets beside it, and then there were %d", len(x.Emits), len(emitted))
	}
	for i, e := range emitted {
		if is, was := nat.ReadHeader(e.Packet.Bytes()), x.Emits[i].Packet; is.String() != was.String() || is.ID != was.ID || e.Side.String() != x.Emits[i].To {
			return fmt.Errorf("explained with %v to the %s beside it, and then it was %v to the %v", &was, x.Emits[i].To, &is, e.Side)
		}
	}
	if !v.Forward() {
		return nil
	}
	want, is := x.Packet, nat.ReadHeader(out.Bytes())
	for _, c := range x.Changes {
		switch c.Field {
		case "source":
			want.Source = c.After
		case "destination":
			want.Destination = c.After
		case "ttl":
			fmt.Sscan(c.After, &want.TTL)
		case "id":
			fmt.Sscan(c.After, &want.ID)
		case "icmp id":
			fmt.Sscan(c.After, &want.Identifier)
		case "mss":
			fmt.Sscan(c.After, &want.MSS)
		}
	}
	if want.Quote, is.Quote = nil, nil; want != is {
		return fmt.Errorf("explained to become\n  %+v, and then it was\n  %+v", want, is)
	}
	return nil
}
