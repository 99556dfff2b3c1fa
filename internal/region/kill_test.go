// SPDX-License-Identifier: Apache-2.0

package region

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/internal/vpctest"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/vpc"
)

// childFile is, in the environment of a child of the tests, the state file that it is to work on until it is killed.
const childFile = "TIDEGATE_TEST_STATE"

func TestMain(m *testing.M) {
	if path := os.Getenv(childFile); path != "" {
		if err := child(path, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func testConfig() vpc.Config {
	return vpc.Config{Seed: 7, PublicPool: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28")}, AddressQuota: 6, CoolDown: time.Minute}
}

// small engines are made quickly.
func small() *EngineSet {
	return NewEngineSet(nat.Config{Sessions: 64, FragmentBytes: 4096, HeldSYNs: 1}, func() time.Duration { return 0 })
}

// The n-th change of a history is made at a time of its own, with random numbers of its own.
func timeOf(n int) time.Time { return start.Add(time.Duration(n) * 7 * time.Second) }

func nth(n int) Call {
	return func(m *vpc.Model, now time.Time) (any, error) {
		return vpctest.Call(m, now, rand.New(rand.NewPCG(7, uint64(n))))
	}
}

// answer is what the n-th change returned, on one line.
func answer(n int, value any, err error) string {
	if err != nil {
		return fmt.Sprintf("%d refused %q", n, err)
	}
	return fmt.Sprintf("%d made %q", n, value)
}

// digest is of all that the model says, and will say after the n-th change.
func digest(m *vpc.Model, n int) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(vpctest.Print(m)+vpctest.Future(m, timeOf(n), 1))))
}

// child opens the file, says for the number of a change that it is told what it has, is told a number again, and makes
// the changes from there on, and says so of each.
func child(path string, in io.Reader, out io.Writer) error {
	var n int
	if _, err := fmt.Fscanln(in, &n); err != nil {
		return err
	}
	s, err := OpenStore(path)
	if err != nil {
		return err
	}
	r, err := Open(Options{Config: testConfig(), Journal: s, Engines: small(), Now: func() time.Time { return timeOf(n) }})
	if err != nil {
		return err
	}
	r.View(func(m *vpc.Model) { fmt.Fprintln(out, digest(m, n)) })
	if _, err := fmt.Fscanln(in, &n); err != nil {
		return err
	}
	for ; ; n++ {
		result, err := r.Change(nth(n))
		if _, err := fmt.Fprintln(out, answer(n, result.Value, err)); err != nil {
			return err
		}
	}
}

// history is what a model without a store makes of the same changes.
type history struct {
	t    *testing.T
	m    *vpc.Model
	done int
}

// next makes the next change, and returns its answer.
func (h *history) next() string {
	next := h.m.Clone()
	next.Advance(timeOf(h.done))
	value, err := nth(h.done)(next, timeOf(h.done))
	if err == nil {
		h.m = next
	}
	h.done++
	return answer(h.done-1, value, err)
}

// TestState_SurvivesKill: whenever the process is killed, the file has all changes that were acknowledged, nothing of
// those that were refused, and the one under way wholly or not at all. TIDEGATE_CHANGES=1000 makes it long.
func TestState_SurvivesKill(t *testing.T) {
	changes := 60
	if s := os.Getenv("TIDEGATE_CHANGES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		changes = n
	}
	path := filepath.Join(t.TempDir(), "state")
	m, err := vpc.New(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	h := &history{t: t, m: m}
	kills, under := 0, 0
	for ; h.done < changes; kills++ {
		if h.life(path, min(changes/10, 20)) {
			under++
		}
	}
	t.Logf("%d changes, %d kills; %d times the change under way was found made", h.done, kills, under)
}

// life starts a child and kills it some time later, after at most as many changes. It reports whether the change that
// was under way when the last child died was found made.
func (h *history) life(path string, atMost int) (made bool) {
	t := h.t
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), childFile+"="+path)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = c.Process.Kill() // it may be dead by now
		_ = c.Wait()         // which says that it was killed
		if stderr.Len() > 0 {
			t.Fatalf("the child says: %s", stderr.String())
		}
	}()
	lines := bufio.NewScanner(out)
	early := rand.IntN(5) == 0
	if early { // while it opens the file
		defer time.AfterFunc(time.Duration(rand.IntN(30))*time.Millisecond, func() { _ = c.Process.Kill() }).Stop()
	}
	fmt.Fprintln(in, h.done)
	if !lines.Scan() {
		if !early {
			t.Error("the child says nothing")
		}
		return false
	}
	if lines.Text() != digest(h.m, h.done) {
		// The one under way when it was killed, then. The time is that of the child.
		n := h.done
		h.next()
		if made = true; lines.Text() != digest(h.m, n) {
			t.Fatalf("after %d acknowledged changes the file has neither those nor one more", n)
		}
	}
	fmt.Fprintln(in, h.done)
	for n := 1 + rand.IntN(atMost); lines.Scan(); n-- {
		if got, want := lines.Text(), h.next(); got != want {
			t.Fatalf("the child says\n%s\nafter the same history without a store it is\n%s", got, want)
		}
		if n == 0 { // somewhere in the next ones
			time.AfterFunc(time.Duration(rand.IntN(1+rand.IntN(3000)))*time.Microsecond, func() { _ = c.Process.Kill() })
		}
	}
	return made
}
