// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"strconv"
	"strings"
)

// Flags are what the plain case needs, as they stand on a command line.
type Flags struct {
	// Inside are prefixes, Public addresses, ranges or prefixes.
	Inside, Public []string
	// Static are "inside=outside" addresses.
	Static []string
	// Forward are "proto:outside:port=inside:port", such as "tcp:203.0.113.1:8080=10.0.1.20:80".
	Forward []string
}

// Plain is a Config from flags, with the defaults of the gateway profile for the rest. The error is Faults.
func Plain(fl Flags) (*Config, error) {
	f := &faults{source: "command line", places: map[string]place{
		"inside.prefixes": {"--inside", 0}, "outside.addresses": {"--public", 0},
	}}
	c := Default("gateway")
	c.Inside.Prefixes = texts(f, "--inside", "inside.prefixes", fl.Inside, c.Inside.Prefixes)
	c.Outside.Addresses = texts(f, "--public", "outside.addresses", fl.Public, c.Outside.Addresses)
	for i, s := range fl.Static {
		f.places[item("static", i)] = place{"--static", 0}
		in, out, ok := strings.Cut(s, "=")
		if !ok {
			f.at(item("static", i), "%q has no =: write INSIDE=OUTSIDE, such as 10.0.1.10=203.0.113.10", s)
			continue
		}
		var m Static
		text(f, "--static", item("static", i)+".inside", in, &m.Inside)
		text(f, "--static", item("static", i)+".outside", out, &m.Outside)
		c.Static = append(c.Static, m)
	}
	for i, s := range fl.Forward {
		f.places[item("forwards", i)] = place{"--forward", 0}
		proto, rest, ok1 := strings.Cut(s, ":")
		out, in, ok2 := strings.Cut(rest, "=")
		if !ok1 || !ok2 {
			f.at(item("forwards", i), "%q is no forward: write PROTO:OUTSIDE:PORT=INSIDE:PORT, such as tcp:203.0.113.1:8080=10.0.1.20:80", s)
			continue
		}
		var w Forward
		text(f, "--forward", item("forwards", i)+".proto", proto, &w.Proto)
		text(f, "--forward", item("forwards", i)+".outside", out, &w.Outside)
		text(f, "--forward", item("forwards", i)+".inside", in, &w.Inside)
		c.Forwards = append(c.Forwards, w)
	}
	c.check(f)
	if err := f.err(); err != nil {
		return nil, err
	}
	return c, nil
}

func item(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

// text sets one leaf from a flag.
func text(f *faults, flag, key, s string, to any) {
	f.places[key] = place{flag, 0}
	if err := setText(reflect.ValueOf(to).Elem(), s); err != nil {
		f.at(key, "%s", err)
	}
}

func texts[T any](f *faults, flag, key string, from []string, to []T) []T {
	for i, s := range from {
		var v T
		text(f, flag, item(key, i), s, &v)
		to = append(to, v)
	}
	return to
}
