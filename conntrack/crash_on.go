// SPDX-License-Identifier: Apache-2.0

//go:build crashpoints

package conntrack

// CrashPoint, if set, is called between any two stores that change a record: a process could die there. This is the
// fault-injection build (go test -tags crashpoints); in others there is no such thing.
var CrashPoint func(where string)

func crashPoint(where string) {
	if CrashPoint != nil {
		CrashPoint(where)
	}
}

// fill is what a copy may be made of: it is interrupted after each field.
func (r *Record) fill(c *Record) {
	for _, f := range []func(){
		func() { r.In = c.In }, func() { r.Rem = c.Rem }, func() { r.Ext = c.Ext },
		func() { r.InPort = c.InPort }, func() { r.RemPort = c.RemPort }, func() { r.ExtPort = c.ExtPort },
		func() { r.Proto = c.Proto }, func() { r.State = c.State }, func() { r.LastSeen = c.LastSeen }, func() { r.Epoch = c.Epoch },
		func() { r.Delta = c.Delta }, func() { r.Pool = c.Pool }, func() { r.Next = c.Next }, func() { r.Prev = c.Prev },
		func() { r.End = c.End }, func() { r.Ack = c.Ack }, func() { r.Win = c.Win },
		func() { r.scale, r.flags = c.scale, c.flags }, func() { r.Attachment = c.Attachment }, func() { r.Bits = c.Bits },
	} {
		f()
		crashPoint("field")
	}
}
