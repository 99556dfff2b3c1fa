// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

func TestU1_Lifetime(t *testing.T) {
	for _, c := range []struct {
		at time.Duration
		v  nat.Verdict
	}{{299_999 * time.Millisecond, nat.Inbound}, {300 * time.Second, nat.DropNoMapping}} {
		r := newRig(t, policyOf(nat.RFCProfile()))
		r.step(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))
		r.now = c.at
		r.step(outside, udp(on(r1, 53), on(pa, 40000)), c.v, udp(on(r1, 53), on(a, 5000)))
	}
}

// TestU3_Refresh: the inside keeps a session; the outside does only where the profile says so.
func TestU3_Refresh(t *testing.T) {
	for _, refresh := range []bool{false, true} {
		f := nat.RFCProfile()
		f.InboundRefresh = refresh
		r := newRig(t, policyOf(f))
		r.step(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))
		r.now = 100 * time.Second
		r.step(outside, udp(on(r1, 53), on(pa, 40000)), nat.Inbound, udp(on(r1, 53), on(a, 5000)))
		want := map[bool]time.Duration{false: 300 * time.Second, true: 400 * time.Second}[refresh]
		if got := r.expires(); got != want {
			t.Errorf("refresh %v: until %v, want %v", refresh, got, want)
		}
		// Somebody without a session of his own passes the filter, and keeps nothing.
		r.step(outside, udp(on(r2, 99), on(pa, 40000)), nat.Inbound, udp(on(r2, 99), on(a, 5000)))
		if got := r.expires(); got != want {
			t.Errorf("refresh %v: until %v after a stranger, want %v", refresh, got, want)
		}
	}
}

// TestU5_U6_Checksum: no checksum stays none, and a computed 0 is sent as all ones.
func TestU5_U6_Checksum(t *testing.T) {
	r := newRig(t, policyOf(nat.RFCProfile()))
	none := func(b []byte) []byte { be.PutUint16(b[26:], 0); return b }
	r.step(inside, none(udp(on(a, 5000), on(r1, 53))), nat.Outbound, none(udp(on(pa, 40000), on(r1, 53))))
	r.wrong(inside, none(udp(on(a, 5000), on(r1, 53))), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))

	// The vector of row U-6.
	host, ext := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("198.51.100.7")
	r = newRig(t, policyOf(nat.RFCProfile(), ext))
	in := craft.UDP(craft.IP{Src: host, Dst: r1, DF: true}, 5000, 53, []byte{0xfd, 0x1f})
	out := craft.UDP(craft.IP{Src: ext, Dst: r1, DF: true}, 40000, 53, []byte{0xfd, 0x1f})
	if got := be.Uint16(out[26:]); got != 0xffff {
		t.Fatalf("checksum %#x", got)
	}
	r.step(inside, in, nat.Outbound, out)
	zero := append([]byte(nil), out...)
	be.PutUint16(zero[26:], 0)
	r.wrong(inside, in, nat.Outbound, zero)
}

// TestK2_Errors: an error on the way in is the same error on the way out.
func TestK2_Errors(t *testing.T) {
	r := newRig(t, policyOf(nat.RFCProfile()))
	spoil := func(b []byte) []byte { be.PutUint16(b[26:], be.Uint16(b[26:])-0x101); return b }
	r.step(inside, spoil(udp(on(a, 5000), on(r1, 53))), nat.Outbound, spoil(udp(on(pa, 40000), on(r1, 53))))
	r.wrong(inside, spoil(udp(on(a, 5000), on(r1, 53))), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))
}

// TestEveryByte: whichever byte of a result is wrong, the twin sees it.
func TestEveryByte(t *testing.T) {
	in := craft.UDP(craft.IP{Src: a, Dst: r1, ID: 7}, 5000, 53, []byte("data"))
	out := craft.UDP(craft.IP{Src: pa, Dst: r1, ID: 4711}, 40000, 53, []byte("data"))
	newRig(t, policyOf(nat.RFCProfile())).step(inside, in, nat.Outbound, out)
	for i := range out {
		bad := append([]byte(nil), out...)
		bad[i] ^= 1
		newRig(t, policyOf(nat.RFCProfile())).wrong(inside, in, nat.Outbound, bad)
	}
	newRig(t, policyOf(nat.RFCProfile())).wrong(inside, in, nat.Outbound, out[:31])
}

// TestF7_Identification: what is not atomic gets an identification that was not used before.
func TestF7_Identification(t *testing.T) {
	r := newRig(t, policyOf(nat.RFCProfile()))
	in := craft.UDP(craft.IP{Src: a, Dst: r1, ID: 7}, 5000, 53, nil)
	out := craft.UDP(craft.IP{Src: pa, Dst: r1, ID: 4711}, 40000, 53, nil)
	r.step(inside, in, nat.Outbound, out)
	r.wrong(inside, in, nat.Outbound, out)
}

func TestM1_M3_OneOwner(t *testing.T) {
	r := newRig(t, policyOf(nat.RFCProfile()))
	r.step(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))
	r.step(inside, udp(on(a, 5000), on(r2, 123)), nat.Outbound, udp(on(pa, 40000), on(r2, 123)))
	r.step(inside, tcpSegment(on(a, 5000), on(r1, 80), packet.SYN, 0, 0, 0), nat.Outbound, tcpSegment(on(pa, 40000), on(r1, 80), packet.SYN, 0, 0, 0))
	r.wrong(inside, udp(on(b, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))

	r = newRig(t, policyOf(nat.RFCProfile()))
	r.step(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))
	r.wrong(inside, udp(on(a, 5000), on(r2, 123)), nat.Outbound, udp(on(pa, 40001), on(r2, 123)))
}

// TestM4_Overlapping: one port serves several remote endpoints, and each of them once.
func TestM4_Overlapping(t *testing.T) {
	f := nat.AWSProfile()
	f.PortMin, f.PortMax = 40000, 40000
	r := newRig(t, policyOf(f))
	r.step(inside, udp(on(a, 1), on(r1, 80)), nat.Outbound, udp(on(pa, 40000), on(r1, 80)))
	r.step(inside, udp(on(b, 1), on(r2, 80)), nat.Outbound, udp(on(pa, 40000), on(r2, 80)))
	r.step(inside, udp(on(b, 2), on(r1, 80)), nat.DropNoPort, nil)
	r.step(outside, udp(on(r1, 80), on(pa, 40000)), nat.Inbound, udp(on(r1, 80), on(a, 1)))
	r.step(outside, udp(on(r2, 80), on(pa, 40000)), nat.Inbound, udp(on(r2, 80), on(b, 1)))
	r.wrong(inside, udp(on(b, 2), on(r1, 81)), nat.DropNoPort, nil)
}

func TestM5_Paired(t *testing.T) {
	r := newRig(t, policyOf(nat.RFCProfile(), pa, pb))
	r.step(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pb, 40000), on(r1, 53)))
	r.step(inside, echo(a, r1, packet.Echo, 7), nat.Outbound, echo(pb, r1, packet.Echo, 99))
	r.wrong(inside, udp(on(a, 5001), on(r1, 53)), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))
}

func TestM7_M8_M9_Port(t *testing.T) {
	newRig(t, policyOf(nat.RFCProfile())).step(inside, udp(on(a, 68), on(r1, 53)), nat.Outbound, udp(on(pa, 600), on(r1, 53)))
	newRig(t, policyOf(nat.RFCProfile())).wrong(inside, udp(on(a, 68), on(r1, 53)), nat.Outbound, udp(on(pa, 2000), on(r1, 53)))
	newRig(t, policyOf(nat.RFCProfile())).wrong(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 600), on(r1, 53)))
	f := nat.RFCProfile()
	f.PreserveParity = true
	newRig(t, policyOf(f)).wrong(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 2001), on(r1, 53)))
	f.PreservePort = true
	newRig(t, policyOf(f)).step(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 5000), on(r1, 53)))
	newRig(t, policyOf(f)).wrong(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 5002), on(r1, 53)))
}

func TestM12_Filtering(t *testing.T) {
	for _, c := range []struct {
		f               nat.Filtering
		same, port, any nat.Verdict
	}{
		{nat.FilterEndpointIndependent, nat.Inbound, nat.Inbound, nat.Inbound},
		{nat.FilterAddressDependent, nat.Inbound, nat.Inbound, nat.DropFiltered},
		{nat.FilterAddressAndPortDependent, nat.Inbound, nat.DropFiltered, nat.DropFiltered},
	} {
		f := nat.RFCProfile()
		f.Filtering[nat.ClassUDP] = c.f
		r := newRig(t, policyOf(f))
		r.step(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))
		r.step(outside, udp(on(r1, 53), on(pa, 40000)), c.same, udp(on(r1, 53), on(a, 5000)))
		r.step(outside, udp(on(r1, 54), on(pa, 40000)), c.port, udp(on(r1, 54), on(a, 5000)))
		r.step(outside, udp(on(r2, 53), on(pa, 40000)), c.any, udp(on(r2, 53), on(a, 5000)))
		r.session()
	}
}

// TestC5_Quarantine: a port that anybody could send to rests when its mapping has ended, while there are others.
func TestC5_Quarantine(t *testing.T) {
	f := nat.RFCProfile()
	f.PortMin, f.PortMax = 40000, 40001
	reuse := func(at time.Duration) *rig {
		r := newRig(t, policyOf(f))
		r.step(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))
		r.now = at
		return r
	}
	in, out := udp(on(b, 5000), on(r1, 53)), udp(on(pa, 40000), on(r1, 53))
	reuse(419*time.Second).wrong(inside, in, nat.Outbound, out)
	reuse(420*time.Second).step(inside, in, nat.Outbound, out)
	r := reuse(350 * time.Second)
	r.step(inside, udp(on(b, 5001), on(r1, 53)), nat.Outbound, udp(on(pa, 40001), on(r1, 53)))
	r.step(inside, in, nat.Outbound, out) // no other is left
}

// TestM17_Capacity: whoever was answered stays, and then the table is full.
func TestM17_Capacity(t *testing.T) {
	r := newRig(t, policyOf(nat.AWSProfile()))
	r.twin = New(nat.Config{Sessions: 2}, policyOf(nat.AWSProfile()))
	for port := range uint16(2) {
		r.step(inside, udp(on(a, 5000+port), on(r1, 53)), nat.Outbound, udp(on(pa, 40000+port), on(r1, 53)))
	}
	r.step(outside, udp(on(r1, 53), on(pa, 40000)), nat.Inbound, udp(on(r1, 53), on(a, 5000)))
	r.step(inside, udp(on(b, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 40002), on(r1, 53)))
	r.step(outside, udp(on(r1, 53), on(pa, 40001)), nat.DropNoMapping, nil)
	r.step(outside, udp(on(r1, 53), on(pa, 40002)), nat.Inbound, udp(on(r1, 53), on(b, 5000)))
	r.step(inside, udp(on(b, 5001), on(r1, 53)), nat.DropTableFull, nil)
}
