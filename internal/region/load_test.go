// SPDX-License-Identifier: Apache-2.0

package region

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/vpc"
)

// snapshot is who has which public address by one policy of a VPC: by private address.
type snapshot map[netip.Addr]netip.Addr

// traced is engines with a book of the policies that were put in force, in their order.
type traced struct {
	*EngineSet
	mu    sync.Mutex
	vpcs  map[string]*vpcTrace
	count int // of policies
	twice []netip.Addr
}

// vpcTrace is the policies of one VPC. What its engine does can be stamped with the policy it was done by: the one in
// force if none was put in force meanwhile, else one of those between before and after.
type vpcTrace struct {
	epoch atomic.Uint64 // twice the number of policies, one less while one is being put in force
	mu    sync.Mutex
	all   []snapshot
}

func (tr *traced) Apply(id string, p *nat.Policy) (nat.Impact, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	v := tr.vpcs[id]
	if v == nil {
		v = &vpcTrace{}
		tr.vpcs[id] = v
	}
	s := snapshot{}
	for _, m := range p.Static {
		s[m.Inside] = m.Outside
		for other, o := range tr.vpcs { // before it is in force
			if other != id && o.has(m.Outside) {
				tr.twice = append(tr.twice, m.Outside)
			}
		}
	}
	v.mu.Lock()
	v.all = append(v.all, s)
	v.mu.Unlock()
	tr.count++
	v.epoch.Add(1)
	defer v.epoch.Add(1)
	return tr.EngineSet.Apply(id, p)
}

// has reports whether somebody has an address by the latest policy.
func (v *vpcTrace) has(ip netip.Addr) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for o := range maps.Values(v.all[len(v.all)-1]) {
		if o == ip {
			return true
		}
	}
	return false
}

// explains reports whether one of the policies that may have been in force between two epochs agrees with what came out,
// and whether there was but one.
func (v *vpcTrace) explains(before, after uint64, agrees func(snapshot) bool) (ok, exact bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	first, last := int(before/2)-1, int((after+1)/2)-1
	for _, s := range v.all[first : last+1] {
		if agrees(s) {
			return true, first == last
		}
	}
	return false, first == last
}

// EIP-2 under load: a hundred callers move an Elastic IP a thousand times among four hosts in two VPCs with the same
// addresses, while those send, and the internet sends to it, 10,000 packets a second, at least ten for each move. By the
// trace every packet went by one policy that was in force then; by no two policies in force had an address two owners;
// nothing left with a source that is not the region's.
func TestEIP2_UnderLoad(t *testing.T) {
	const callers, moves, perMove, atOnce, senderCount = 100, 10, 10, 5, 6
	const pause = senderCount * atOnce * time.Second / 10000
	tr := &traced{EngineSet: small(), vpcs: map[string]*vpcTrace{}}
	cfg := testConfig()
	cfg.CoolDown = time.Nanosecond // so that lent addresses, too, change hands
	r, err := Open(Options{Config: cfg, Engines: tr})
	if err != nil {
		t.Fatal(err)
	}
	must := func(call Call) any {
		t.Helper()
		result, err := r.Change(call)
		if err != nil {
			t.Fatal(err)
		}
		return result.Value
	}
	var hosts []vpc.Instance
	for range 2 {
		must(func(m *vpc.Model, now time.Time) (any, error) {
			v, err := m.CreateVPC(netip.MustParsePrefix("10.0.0.0/16"))
			if err != nil {
				return nil, err
			}
			g := m.CreateInternetGateway()
			if err := m.AttachInternetGateway(g.ID, v.ID); err != nil {
				return nil, err
			}
			// One host of each VPC is in a group that restricts it to what is sent here, the other in one that costs nothing.
			var groups []string
			for i, peer := range []netip.Prefix{netip.PrefixFrom(remote, 32), everything} {
				g, err := m.CreateSecurityGroup(v.ID, []string{"some", "all"}[i], "who may send to it")
				if err != nil {
					return nil, err
				}
				if _, err := m.AuthorizeSecurityGroupIngress(g.ID, []vpc.SecurityGroupRule{{Protocol: vpc.AllProtocols, CIDR: peer}}); err != nil {
					return nil, err
				}
				groups = append(groups, g.ID)
			}
			for i, cidr := range []string{"10.0.1.0/24", "10.0.2.0/24"} { // one lends addresses, the other does not
				s, err := m.CreateSubnet(vpc.CreateSubnetInput{VPCID: v.ID, CIDR: netip.MustParsePrefix(cidr), MapPublicIPOnLaunch: i == 0})
				if err != nil {
					return nil, err
				}
				h, err := m.RunInstance(now, vpc.RunInstanceInput{SubnetID: s.ID, GroupIDs: groups[i : i+1]})
				if err != nil {
					return nil, err
				}
				hosts = append(hosts, h)
			}
			return nil, m.CreateRoute(v.MainRouteTableID, everything, g.ID)
		})
	}
	eip := must(allocate).(vpc.Address)
	must(associate(eip, hosts[0]))

	turns := make(chan struct{}, 1)
	done := make(chan struct{})
	var sent, batches, exact, left, arrived atomic.Int64
	// send takes packets through the engine of a VPC until all is done, and holds what comes out to the trace: at is where
	// in the packet the address is that tells.
	send := func(vpcID string, from nat.AttachmentID, raw []byte, at int, agrees func(s snapshot, out netip.Addr) bool, through *atomic.Int64) {
		w, v := tr.Engine(vpcID).Worker(), tr.vpcs[vpcID]
		ps, vs, outs := make([]packet.Packet, atOnce), make([]nat.Verdict, atOnce), make([]netip.Addr, atOnce)
		pace := time.NewTicker(pause)
		defer pace.Stop()
		for n := 1; ; n++ {
			select {
			case <-pace.C:
			case <-done:
				return
			}
			for i := range ps {
				ps[i] = packet.From(append([]byte(nil), raw...))
			}
			before := v.epoch.Load()
			w.Batch(ps, from, 0, vs)
			after := v.epoch.Load()
			for i := range ps {
				if outs[i] = (netip.Addr{}); vs[i].Forward() {
					outs[i] = netip.AddrFrom4([4]byte(ps[i].Bytes()[at:]))
					through.Add(1)
				}
			}
			ok, one := v.explains(before, after, func(s snapshot) bool {
				for _, out := range outs {
					if !agrees(s, out) {
						return false
					}
				}
				return true
			})
			if !ok {
				t.Errorf("%s: %v came out as %v between the epochs %d and %d, which no policy then explains", vpcID, raw[12:20], outs, before, after)
			}
			if one {
				exact.Add(1)
			}
			batches.Add(1)
			sent.Add(atOnce)
			if n%(perMove/atOnce) == 0 {
				select {
				case turns <- struct{}{}:
				default: // nobody is through with the last move: that sees more packets
				}
			}
		}
	}
	var senders, movers sync.WaitGroup
	for _, h := range hosts {
		senders.Go(func() {
			send(h.VPCID, h.Attachment, datagram(h.PrivateIP, remote), 12, func(s snapshot, out netip.Addr) bool {
				if out.IsValid() && !cfg.PublicPool[0].Contains(out) {
					t.Errorf("%v is outside the external set", out)
				}
				return out == s[h.PrivateIP]
			}, &left)
		})
	}
	for _, id := range []string{hosts[0].VPCID, hosts[2].VPCID} {
		senders.Go(func() {
			send(id, vpc.OutsideAttachment, datagram(remote, eip.PublicIP), 16, func(s snapshot, out netip.Addr) bool {
				for in, public := range s {
					if public == eip.PublicIP {
						return out == in
					}
				}
				return !out.IsValid()
			}, &arrived)
		})
	}
	var last atomic.Value
	for n := range callers {
		movers.Go(func() {
			rng := rand.New(rand.NewPCG(2, uint64(n)))
			for range moves {
				<-turns
				h := hosts[rng.IntN(len(hosts))]
				_, err := r.Change(func(m *vpc.Model, now time.Time) (any, error) {
					last.Store(h.ID) // under the lock of the region: the last one is the last to commit
					return associate(eip, h)(m, now)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	movers.Wait()
	close(done)
	senders.Wait()
	if n := len(tr.twice); n > 0 {
		t.Errorf("%d times an address had two owners, %v was the first", n, tr.twice[0])
	}
	r.View(func(m *vpc.Model) {
		if a, err := m.Address(eip.ID); err != nil || a.InstanceID != last.Load() {
			t.Errorf("%s has the address in the end, %v; the last commit gave it to %v", a.InstanceID, err, last.Load())
		}
	})
	for _, id := range []string{hosts[0].VPCID, hosts[2].VPCID} {
		if err := tr.Engine(id).Check(0); err != nil {
			t.Error(err)
		}
	}
	if sent.Load() < callers*moves*perMove || left.Load() == 0 || arrived.Load() == 0 {
		t.Error("too little was sent, or none of it got through")
	}
	t.Logf("%d policies, %d packets sent, %d left, %d arrived at the Elastic IP; %d of %d batches went through while a policy was being put in force",
		tr.count, sent.Load(), left.Load(), arrived.Load(), batches.Load()-exact.Load(), batches.Load())
}
