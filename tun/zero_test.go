// SPDX-License-Identifier: Apache-2.0

package tun_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/tun"
)

// TestOptionsRefused: what Options cannot mean is told before the system is asked. (Their zero value opens an interface,
// which takes privilege: see the tests of the backends.)
func TestOptionsRefused(t *testing.T) {
	for _, c := range []struct {
		o    tun.Options
		want string
	}{
		{tun.Options{Queues: -1}, "-1 queues: choose 1 or more"},
		{tun.Options{Backend: "x"}, `no backend "x"`},
		{tun.Options{Backend: tun.BackendWater, Queues: 2}, ""},
	} {
		ds, err := tun.OpenQueues(c.o)
		if err == nil || len(ds) != 0 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
		if c.want == "" && !errors.Is(err, tun.ErrUnsupported) {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
	var w tun.WriteError
	if errors.Is(&w, tun.ErrDown) || w.Error() == "" {
		t.Error(w.Error())
	}
}
