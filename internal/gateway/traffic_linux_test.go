// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bytes"
	order "encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
)

// traffic is many flows at once between an inside host and the internet, whose every byte is known: TCP connections that
// exchange numbered frames, UDP flows with numbered datagrams that are answered, and on the side new UDP flows that end at
// once, which might be given a port that has an owner.
type traffic struct {
	t      *testing.T
	inside *lab.Host
	every  time.Duration // how often each flow says something
	quit   chan struct{}
	wg     sync.WaitGroup
	conns  []io.Closer

	mu     sync.Mutex
	faults []string
	owners map[string]map[netip.AddrPort]netip.AddrPort // by protocol: an external endpoint is of an inside one
	faces  map[string]map[netip.AddrPort]netip.AddrPort // and the other way round

	frames, sent, answered, unreachable, churned atomic.Int64
	heard                                        atomic.Int64 // when the inside last heard anything, in ns
	silence                                      silence      // of all flows together
	tcpSilence                                   silence      // of one connection
	perFlow                                      []atomic.Int64
}

// silence is the longest time between two signs of life.
type silence struct{ longest atomic.Int64 }

func (s *silence) is(d time.Duration) {
	for {
		was := s.longest.Load()
		if int64(d) <= was || s.longest.CompareAndSwap(was, int64(d)) {
			return
		}
	}
}

func (s *silence) take() time.Duration { return time.Duration(s.longest.Swap(0)) }

const (
	tcpServer = "198.51.100.1:7000"
	udpServer = "198.51.100.1:7001"
	frameHead = 24
	frameMax  = 600
)

// frame is what endpoint from says as its n-th word; the answer to it is another.
func frame(b []byte, from netip.AddrPort, flow uint32, n uint32, answer bool) []byte {
	size := frameHead + 1 + int(n*131+flow*17)%(frameMax-frameHead)
	b = b[:size]
	a := from.Addr().As4()
	copy(b[4:], a[:])
	order.BigEndian.PutUint16(b[8:], from.Port())
	order.BigEndian.PutUint16(b[10:], uint16(size))
	order.BigEndian.PutUint32(b[12:], flow)
	order.BigEndian.PutUint32(b[16:], n)
	b[20] = 0
	if answer {
		b[20] = 1
	}
	copy(b[21:frameHead], "tg!")
	r := rand.NewPCG(uint64(flow)<<1|uint64(b[20]), uint64(n))
	for i := frameHead; i < size; i += 8 {
		var word [8]byte
		order.LittleEndian.PutUint64(word[:], r.Uint64())
		copy(b[i:], word[:])
	}
	order.BigEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
	return b
}

// parse says who says what; whatever else is in b is compared with what it has to be.
func parse(b []byte) (from netip.AddrPort, flow, n uint32, answer bool, err error) {
	if len(b) < frameHead {
		return from, 0, 0, false, fmt.Errorf("%d bytes", len(b))
	}
	from = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), order.BigEndian.Uint16(b[8:]))
	flow, n, answer = order.BigEndian.Uint32(b[12:]), order.BigEndian.Uint32(b[16:]), b[20] == 1
	var want [frameMax]byte
	if !bytes.Equal(b, frame(want[:], from, flow, n, answer)) {
		err = fmt.Errorf("corrupt: %d bytes that say to be word %d of flow %d", len(b), n, flow)
	}
	return from, flow, n, answer, err
}

func (f *traffic) fault(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.faults) < 20 {
		f.faults = append(f.faults, fmt.Sprintf(format, args...))
	}
}

// own notes who has an external endpoint; an owner never changes, and an owner has one.
func (f *traffic) own(proto string, external, inside netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range []struct {
		all  map[string]map[netip.AddrPort]netip.AddrPort
		a, b netip.AddrPort
	}{{f.owners, external, inside}, {f.faces, inside, external}} {
		if m.all[proto] == nil {
			m.all[proto] = map[netip.AddrPort]netip.AddrPort{}
		}
		was, ok := m.all[proto][m.a]
		if ok && was != m.b && len(f.faults) < 20 {
			f.faults = append(f.faults, fmt.Sprintf("%s: %s was of %s and is of %s", proto, m.a, was, m.b))
		}
		m.all[proto][m.a] = m.b
	}
}

// hear is a sign of life.
func (f *traffic) hear() {
	now := time.Now().UnixNano()
	if was := f.heard.Swap(now); was != 0 {
		f.silence.is(time.Duration(now - was))
	}
}

// startTraffic starts n connections and n UDP flows, and returns when all have had an answer.
func (b *bed) startTraffic(n int, every time.Duration) *traffic {
	b.t.Helper()
	f := &traffic{t: b.t, inside: b.pc, every: every, quit: make(chan struct{}), perFlow: make([]atomic.Int64, 2*n),
		owners: map[string]map[netip.AddrPort]netip.AddrPort{}, faces: map[string]map[netip.AddrPort]netip.AddrPort{}}
	l, err := b.net.Listen("tcp", tcpServer)
	if err != nil {
		b.t.Fatal(err)
	}
	f.conns = append(f.conns, l)
	go f.accept(l)
	u, err := b.net.ListenPacket("udp", udpServer)
	if err != nil {
		b.t.Fatal(err)
	}
	_ = u.(*net.UDPConn).SetReadBuffer(4 << 20)
	f.conns = append(f.conns, u)
	go f.answerUDP(u.(*net.UDPConn))
	for i := range n {
		c, err := b.pc.Dial(b.t.Context(), "tcp", tcpServer)
		if err != nil {
			b.t.Fatal(err)
		}
		d, err := b.pc.Dial(b.t.Context(), "udp", udpServer)
		if err != nil {
			b.t.Fatal(err)
		}
		f.conns = append(f.conns, c, d)
		f.wg.Add(2)
		go f.talk(c, uint32(i))
		go f.ask(d, uint32(n+i))
		go f.listen(d, uint32(n+i))
	}
	f.wg.Add(1)
	go f.churn()
	b.t.Cleanup(f.stop)
	f.progress("all flows to begin", 1)
	return f
}

// progress waits until each flow has heard n more words.
func (f *traffic) progress(what string, n int64) {
	f.t.Helper()
	want := make([]int64, len(f.perFlow))
	for i := range want {
		want[i] = f.perFlow[i].Load() + n
	}
	end := time.Now().Add(2 * time.Minute)
	for i := range want {
		for f.perFlow[i].Load() < want[i] {
			if time.Now().After(end) {
				f.check()
				f.t.Fatalf("in vain waited for %s: flow %d is at %d, want %d", what, i, f.perFlow[i].Load(), want[i])
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// stop ends all of it; it may be called again.
func (f *traffic) stop() {
	f.mu.Lock()
	conns := f.conns
	f.conns = nil
	f.mu.Unlock()
	if conns == nil {
		return
	}
	close(f.quit)
	for _, c := range conns {
		_ = c.Close()
	}
	f.wg.Wait()
}

// check fails the test for whatever was not as it has to be.
func (f *traffic) check() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.faults {
		f.t.Error(s)
	}
	f.faults = nil
}

func (f *traffic) over() bool {
	select {
	case <-f.quit:
		return true
	default:
		return false
	}
}

// accept is the TCP server: it checks each frame and answers it.
func (f *traffic) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			external := c.RemoteAddr().(*net.TCPAddr).AddrPort()
			var buf, out [frameMax]byte
			for want := uint32(0); ; want++ {
				b, err := readFrame(c, buf[:])
				if err != nil {
					if !f.over() && !errors.Is(err, io.EOF) {
						f.fault("the server's end of a connection from %s: %v", external, err)
					}
					return
				}
				from, flow, n, answer, err := parse(b)
				if err != nil || n != want || answer {
					f.fault("TCP from %s: frame %d: %d of flow %d, %v", external, want, n, flow, err)
					return
				}
				f.own("tcp", external, from)
				if _, err := c.Write(frame(out[:], from, flow, n, true)); err != nil {
					if !f.over() {
						f.fault("the server's end of connection %d: %v", flow, err)
					}
					return
				}
			}
		}()
	}
}

func readFrame(r io.Reader, buf []byte) ([]byte, error) {
	if _, err := io.ReadFull(r, buf[:frameHead]); err != nil {
		return nil, err
	}
	size := int(order.BigEndian.Uint16(buf[10:]))
	if size < frameHead || size > frameMax {
		return nil, fmt.Errorf("corrupt: a frame of %d bytes", size)
	}
	_, err := io.ReadFull(r, buf[frameHead:size])
	return buf[:size], err
}

// talk is the inside end of a connection.
func (f *traffic) talk(c net.Conn, flow uint32) {
	defer f.wg.Done()
	me := c.LocalAddr().(*net.TCPAddr).AddrPort()
	var buf, out [frameMax]byte
	last := time.Now()
	for n := uint32(0); ; n++ {
		_, err := c.Write(frame(out[:], me, flow, n, false))
		var b []byte
		if err == nil {
			b, err = readFrame(c, buf[:])
		}
		if err != nil {
			if !f.over() {
				f.fault("TCP connection %d broke at frame %d: %v", flow, n, err)
			}
			return
		}
		from, of, got, answer, err := parse(b)
		if err != nil || from != me || of != flow || got != n || !answer {
			f.fault("TCP connection %d, frame %d: %d of flow %d for %s, %v", flow, n, got, of, from, err)
			return
		}
		f.hear()
		f.frames.Add(1)
		f.perFlow[flow].Add(1)
		f.tcpSilence.is(time.Since(last) - f.every)
		if !f.pause(flow) {
			return
		}
		last = time.Now().Add(-f.every)
	}
}

// pause waits until it is a flow's turn again.
func (f *traffic) pause(flow uint32) bool {
	t := time.NewTimer(f.every/2 + rand.N(f.every))
	defer t.Stop()
	select {
	case <-f.quit:
		return false
	case <-t.C:
		return true
	}
}

// answerUDP is the UDP server.
func (f *traffic) answerUDP(c *net.UDPConn) {
	var buf [2048]byte
	var out [frameMax]byte
	for {
		k, external, err := c.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			if f.over() {
				return
			}
			continue // an ICMP error about an answer
		}
		external = netip.AddrPortFrom(external.Addr().Unmap(), external.Port())
		from, flow, n, answer, err := parse(buf[:k])
		if err != nil || answer {
			f.fault("UDP from %s: %v", external, err)
			continue
		}
		f.own("udp", external, from)
		_, _ = c.WriteToUDPAddrPort(frame(out[:], from, flow, n, true), external) // a loss is counted by the asker
	}
}

// ask says something again and again, without waiting for answers.
func (f *traffic) ask(c net.Conn, flow uint32) {
	defer f.wg.Done()
	me := c.LocalAddr().(*net.UDPAddr).AddrPort()
	var out [frameMax]byte
	for n := uint32(0); ; n++ {
		if _, err := c.Write(frame(out[:], me, flow, n, false)); err != nil {
			f.unreachable.Add(1) // an ICMP error about an earlier one, or nothing could be sent
		}
		f.sent.Add(1)
		if !f.pause(flow) {
			return
		}
	}
}

// listen checks the answers: each is for this flow, to a question, and comes once.
func (f *traffic) listen(c net.Conn, flow uint32) {
	me := c.LocalAddr().(*net.UDPAddr).AddrPort()
	var buf [2048]byte
	seen := map[uint32]bool{}
	for {
		k, err := c.Read(buf[:])
		if err != nil {
			if f.over() {
				return
			}
			continue
		}
		from, of, n, answer, err := parse(buf[:k])
		if err != nil || !answer || from != me || of != flow || seen[n] {
			f.fault("UDP flow %d of %s: answer %d to flow %d of %s, again: %v, %v", flow, me, n, of, from, seen[n], err)
			continue
		}
		seen[n] = true
		f.hear()
		f.answered.Add(1)
		f.perFlow[flow].Add(1)
	}
}

// churn makes new flows that end at once.
func (f *traffic) churn() {
	defer f.wg.Done()
	var out [frameMax]byte
	for n := uint32(0); f.pause(0); n++ {
		c, err := f.inside.Dial(f.t.Context(), "udp", udpServer)
		if err != nil {
			continue
		}
		me := c.LocalAddr().(*net.UDPAddr).AddrPort()
		if _, err := c.Write(frame(out[:], me, 1<<20+n, 0, false)); err == nil {
			f.churned.Add(1)
		}
		_ = c.Close()
	}
}
