// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"sort"
	"strings"
)

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	// Source is the file, or the flag, that it stands in; Line its line, from 1, or 0.
	Source string
	Line   int
	// Key is the path of the key, such as "forwards[0].proto"; "" is the file as a whole.
	Key string
	// Text says what is wrong and what would be right.
	Text string
}

func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.Source)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	if f.Key != "" {
		b.WriteString(": " + f.Key)
	}
	return b.String() + ": " + f.Text
}

// Faults is the error of Load and Plain: all faults, in the order of the file.
type Faults []Fault

// Error is one line for each fault.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// place is where a key stands.
type place struct {
	source string
	line   int
}

// faults collects what is wrong, and knows where things stand.
type faults struct {
	source string
	places map[string]place
	all    Faults
}

// at reports a fault of a key, or of the nearest key above it that was written down.
func (f *faults) at(key, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for k := key; k != ""; {
		if p, ok := f.places[k]; ok {
			f.all = append(f.all, Fault{p.source, p.line, key, text})
			return
		}
		i := strings.LastIndexAny(k, ".[")
		if i < 0 {
			break
		}
		k = k[:i]
	}
	f.all = append(f.all, Fault{Source: f.source, Key: key, Text: text})
}

// err is all faults in order, or nil.
func (f *faults) err() error {
	if len(f.all) == 0 {
		return nil
	}
	sort.SliceStable(f.all, func(i, j int) bool { return f.all[i].Line < f.all[j].Line })
	return f.all
}
