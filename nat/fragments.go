// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"sync"

	"github.com/tidegate/tidegate/nat/internal/reasm"
	"github.com/tidegate/tidegate/packet"
)

// fragments is the stage before the shards: a fragment has no ports, so the pieces of a datagram wait here until all
// are at hand, and go on together, in order (RFC 4787 REQ-14). It has a bounded arena and a lock of its own, so a flood
// of fragments costs fragments alone.
type fragments struct {
	mu    sync.Mutex
	store *reasm.Store
}

var reasmVerdicts = [...]Verdict{
	reasm.Held: HeldFragment, reasm.Duplicate: DropFragmentDuplicate, reasm.Overlap: DropFragmentOverlap, reasm.Limit: DropFragmentLimit,
}

// fragment is for a piece that a pool is to translate. The one that completes its datagram takes all of it through the pass
// that f is in.
func (w *Worker) fragment(f *flow, d *pool, dst owner) Verdict {
	v := &f.v
	if _, ok := class(v.Proto); !ok {
		return DropProtocol
	}
	if d.FragmentsUDPOnly && v.Proto != packet.UDP {
		return DropFragmentPolicy // NGW-7
	}
	src, dstAddr := v.Src, v.Dst
	if bad := w.gather(f); bad != Unset {
		return bad
	}
	if f.looped || f.att.side == Outside {
		return w.naptIn(f, d, dst)
	}
	way, ok := w.pol.route(src, dstAddr)
	if !ok {
		return DropNoPath
	}
	return w.naptOut(f, way.pool, dst)
}

// gather takes a piece in. With the one that completes its datagram, f is all of that.
func (w *Worker) gather(f *flow) Verdict {
	v := &f.v
	fr := &w.e.frags
	fr.mu.Lock()
	key := reasm.Key{Src: v.Src, Dst: v.Dst, ID: v.ID, Attachment: uint16(f.from), Proto: v.Proto}
	if got := w.collect(f, key); got != reasm.Complete {
		fr.mu.Unlock()
		return reasmVerdicts[got]
	}
	fr.mu.Unlock()

	f.set = true
	first := w.pieces[0].Bytes()
	if v.Parse(first) != packet.OK || v.Whole(first, f.length) != packet.OK {
		return DropMalformed
	}
	if v.Kind == packet.KindError {
		return DropICMPQuote
	}
	if mtu := w.pol.mtu[Inside]; f.looped && mtu > 0 { // the outbound pass has looked at this piece alone
		if f.cut = 0; w.longestPiece() > mtu {
			f.cut = mtu
		}
	}
	return Unset
}

// collect gives a piece to the store. If it completes its datagram, all pieces are then in Worker.pieces. The store is
// locked.
func (w *Worker) collect(f *flow, key reasm.Key) reasm.Result {
	v, store := &f.v, w.e.frags.store
	if w.why != nil {
		return w.rehearsePiece(f, key)
	}
	got, set := store.Add(key, w.call, f.p.Bytes(), int(v.L4), int(v.FragOff), v.MF)
	if got == reasm.Complete {
		w.pieces = w.pieces[:0]
		for i := range store.Len(set) {
			w.takePiece(set, i)
		}
		f.length = store.Total(set)
		store.Free(set)
	}
	return got
}

func (w *Worker) takePiece(set reasm.Set, i int) {
	store := w.e.frags.store
	p := w.buffer(store.Size(set, i))
	store.Copy(set, i, p.Bytes())
	w.pieces = append(w.pieces, p)
}
