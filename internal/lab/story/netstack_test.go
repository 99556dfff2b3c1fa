// SPDX-License-Identifier: Apache-2.0

package story

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/internal/lab"
)

// The whole story between netstack hosts, after which nothing of it is left.
func TestNetstackWorld(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	n, err := NewNetwork()
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewNetstackWorld(n, lab.Fault{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(context.Background(), n, w, FindTools(true))
	if err != nil {
		t.Fatal(err)
	}
	r := s.Run(context.Background(), Options{})
	for _, st := range r.Steps {
		t.Logf("step %d: %v", st.Number, st.Duration)
		for _, c := range st.Checks {
			if !c.OK {
				t.Errorf("step %d: %s: expected %s, seen %s", st.Number, c.What, c.Expected, c.Seen)
			}
		}
	}
	if !r.OK {
		t.Error("the story differs")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
