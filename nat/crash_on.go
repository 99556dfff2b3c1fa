// SPDX-License-Identifier: Apache-2.0

//go:build crashpoints

package nat

import "github.com/tidegate/tidegate/conntrack"

// crashPoint is a place where a process could die, as conntrack.CrashPoint says.
func crashPoint(where string) {
	if conntrack.CrashPoint != nil {
		conntrack.CrashPoint(where)
	}
}
