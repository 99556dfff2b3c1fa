// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sysctl is a value under /proc/sys/net, with slashes.
type sysctl struct{ name, value string }

func (v sysctl) write() error {
	if err := os.WriteFile(filepath.Join("/proc/sys/net", v.name), []byte(v.value), 0o644); err != nil {
		return fmt.Errorf("set %s to %s: %w", dotted(v.name), v.value, err)
	}
	return nil
}

// sysctl sets a value and remembers what it was.
func (s *system) sysctl(name, value string) error {
	was, err := readSysctl(name)
	if err != nil || was == value {
		return err
	}
	if !slices.ContainsFunc(s.restore, func(v sysctl) bool { return v.name == name }) { // else by a process before this one
		s.restore = append(s.restore, sysctl{name, was})
		if s.remember != nil {
			if err := s.remember(s.restore); err != nil {
				return err
			}
		}
	}
	return (sysctl{name, value}).write()
}

func readSysctl(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net", name))
	return strings.TrimSpace(string(b)), err
}

// readNumber is readSysctl for a number; what is not there is 0.
func readNumber(name string) int {
	v, err := readSysctl(name)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(v)
	return n
}

// dotted is how sysctl(8) calls it.
func dotted(name string) string { return "net." + strings.ReplaceAll(name, "/", ".") }
