// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"strings"
)

// fixed are the keys that a gateway cannot change while it runs, and why; "devices", "control" and "state" stand for all below them.
var fixed = map[string]string{
	"limits.sessions":   "the tables have their size from the start",
	"timeouts.fragment": "the store of fragments is made with it",
	"flow_counters":     "the tables have room for them from the start, or never",
	"devices":           "the interfaces are made at the start",
	"control":           "the socket is made at the start",
	"state":             "the file is opened at the start",
}

// Changes are the keys that differ between two configurations, in the order of the file; a list is one key.
func Changes(from, to *Config) []string {
	return changes(reflect.ValueOf(from).Elem(), reflect.ValueOf(to).Elem(), "")
}

func changes(from, to reflect.Value, path string) (changed []string) {
	if isLeaf(from) || from.Kind() == reflect.Slice {
		empty := from.Kind() == reflect.Slice && from.Len() == 0 && to.Len() == 0
		if !empty && !reflect.DeepEqual(from.Interface(), to.Interface()) {
			changed = []string{path}
		}
		return changed
	}
	for i, k := range keys(from.Type()) {
		changed = append(changed, changes(from.Field(i), to.Field(i), join(path, k))...)
	}
	return changed
}

// checkFixed reports what differs from the configuration of a gateway that runs, and may not.
func (c *Config) checkFixed(f *faults, running *Config) {
	for _, key := range Changes(running, c) {
		top, _, _ := strings.Cut(key, ".")
		why, ok := fixed[key]
		if !ok {
			why, ok = fixed[top]
		}
		if ok {
			f.at(key, "cannot change while the gateway runs, since %s: restart it, or put the old value back", why)
		}
	}
}
