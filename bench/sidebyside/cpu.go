// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc (USER_HZ, which is 100 on every architecture that Go has).
const tick = 10 * time.Millisecond

// machineTime is what all processors have done since the start, by the first line of /proc/stat (proc(5)). Stolen time is
// what another guest had: it is not in busy.
type machineTime struct {
	Busy, Idle, Stolen time.Duration
}

func parseStat(s string) (m machineTime, err error) {
	line, _, _ := strings.Cut(s, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return m, fmt.Errorf("/proc/stat begins with %q", line)
	}
	for i, text := range f[1:9] { // guest times, which follow, are in user and nice
		n, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			return m, fmt.Errorf("/proc/stat: %w", err)
		}
		t := time.Duration(n) * tick
		switch i {
		case 3, 4:
			m.Idle += t
		case 7:
			m.Stolen += t
		default:
			m.Busy += t
		}
	}
	return m, nil
}

// processTime is one line of /proc/PID/stat: who its parent is, and the time that all of its threads have run.
type processTime struct {
	PID, Parent int
	Ran         time.Duration
}

func parseProcess(s string) (p processTime, err error) {
	// The name, in parentheses, may have spaces and parentheses in it.
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return p, fmt.Errorf("not a process's state: %q", s)
	}
	f := strings.Fields(s[end+1:])
	if len(f) < 13 {
		return p, fmt.Errorf("not a process's state: %q", s)
	}
	number := func(text string) (n int) {
		if err == nil {
			n, err = strconv.Atoi(text)
		}
		return n
	}
	p.PID = number(strings.TrimSpace(s[:open]))
	p.Parent = number(f[1])
	p.Ran = time.Duration(number(f[11])+number(f[12])) * tick
	return p, err
}

// family adds up a process and all that it has started.
func family(all []processTime, root int) (ran time.Duration) {
	parent := map[int]int{}
	for _, p := range all {
		parent[p.PID] = p.Parent
	}
	for _, p := range all {
		for pid := p.PID; pid > 1; pid = parent[pid] {
			if pid == root {
				ran += p.Ran
				break
			}
		}
	}
	return ran
}
