// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"
	"unsafe"
)

// TestLayout: where the fields of a Record are, and what a session takes beside it, as docs/architecture.md has it.
func TestLayout(t *testing.T) {
	var r Record
	for _, f := range []struct {
		name      string
		at, bytes uintptr
		offset    uintptr
		size      uintptr
	}{
		{"In", 0, 4, unsafe.Offsetof(r.In), unsafe.Sizeof(r.In)},
		{"Rem", 4, 4, unsafe.Offsetof(r.Rem), unsafe.Sizeof(r.Rem)},
		{"Ext", 8, 4, unsafe.Offsetof(r.Ext), unsafe.Sizeof(r.Ext)},
		{"InPort", 12, 2, unsafe.Offsetof(r.InPort), unsafe.Sizeof(r.InPort)},
		{"RemPort", 14, 2, unsafe.Offsetof(r.RemPort), unsafe.Sizeof(r.RemPort)},
		{"ExtPort", 16, 2, unsafe.Offsetof(r.ExtPort), unsafe.Sizeof(r.ExtPort)},
		{"Proto", 18, 1, unsafe.Offsetof(r.Proto), unsafe.Sizeof(r.Proto)},
		{"State", 19, 1, unsafe.Offsetof(r.State), unsafe.Sizeof(r.State)},
		{"LastSeen", 20, 4, unsafe.Offsetof(r.LastSeen), unsafe.Sizeof(r.LastSeen)},
		{"Epoch", 24, 4, unsafe.Offsetof(r.Epoch), unsafe.Sizeof(r.Epoch)},
		{"Delta", 28, 2, unsafe.Offsetof(r.Delta), unsafe.Sizeof(r.Delta)},
		{"Pool", 30, 2, unsafe.Offsetof(r.Pool), unsafe.Sizeof(r.Pool)},
		{"Next", 32, 4, unsafe.Offsetof(r.Next), unsafe.Sizeof(r.Next)},
		{"Prev", 36, 4, unsafe.Offsetof(r.Prev), unsafe.Sizeof(r.Prev)},
		{"End", 40, 8, unsafe.Offsetof(r.End), unsafe.Sizeof(r.End)},
		{"Ack", 48, 8, unsafe.Offsetof(r.Ack), unsafe.Sizeof(r.Ack)},
		{"Win", 56, 2, unsafe.Offsetof(r.Win), unsafe.Sizeof(r.Win)},
		{"scale", 58, 1, unsafe.Offsetof(r.scale), unsafe.Sizeof(r.scale)},
		{"flags", 59, 1, unsafe.Offsetof(r.flags), unsafe.Sizeof(r.flags)},
		{"Attachment", 60, 2, unsafe.Offsetof(r.Attachment), unsafe.Sizeof(r.Attachment)},
		{"Bits", 62, 2, unsafe.Offsetof(r.Bits), unsafe.Sizeof(r.Bits)},
	} {
		if f.offset != f.at || f.size != f.bytes {
			t.Errorf("%s: %d bytes at %d, want %d at %d", f.name, f.size, f.offset, f.bytes, f.at)
		}
	}
	if n := unsafe.Sizeof(link{}); n != 8 {
		t.Errorf("the wheel takes %d bytes a record", n)
	}
	// A record, its links, an eighth of a line in each of four indexes, and a bit.
	const n = 1 << 18
	if got, want := Size(Config{Sessions: n}), n*(64+8)+n/8*64*4+n/8; got < want || got > want+1<<10 {
		t.Errorf("%d sessions take %d bytes, want %d and little more", n, got, want)
	}
	if got := Size(Config{Sessions: n, Counts: true}) - Size(Config{Sessions: n}); got != 24*(n+1) {
		t.Errorf("counts take %d bytes", got)
	}
	table, err := New(Config{Sessions: n}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range []index{table.out, table.in, table.ends, table.exts} {
		if got := 64 * len(x); got != 64*bucketsFor(n) || uintptr(unsafe.Pointer(&x[0]))%64 != 0 {
			t.Errorf("index %d takes %d bytes at %p", i, got, &x[0])
		}
	}
}
