// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// setting is a number of the environment, for the long form.
func setting(t *testing.T, name string, short int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return short
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestKillUnderTraffic: the gateway is killed at random moments, in the middle of a start too, and started again, and then
// upgraded, while many connections go on. None breaks, no byte is wrong or lost, no datagram is corrupt or goes to another,
// no external port changes its owner. It is so with one queue and with several. TIDEGATE_FLOWS, TIDEGATE_KILLS and TIDEGATE_UPGRADES make it long.
func TestKillUnderTraffic(t *testing.T) {
	t.Parallel()
	for _, queues := range []int{1, 4} {
		t.Run(fmt.Sprintf("queues=%d", queues), func(t *testing.T) {
			t.Parallel()
			killUnderTraffic(t, queues)
		})
	}
}

func killUnderTraffic(t *testing.T, queues int) {
	short := 10
	if queues > 1 {
		short = 4
	}
	flows, kills, upgrades := setting(t, "TIDEGATE_FLOWS", 10*short), setting(t, "TIDEGATE_KILLS", short), setting(t, "TIDEGATE_UPGRADES", short/2)
	b := newBed(t)
	// Each start has another way to read its devices than the one before, where the kernel has both.
	starts := 0
	begin := func(run func(...string) *instance) *instance {
		starts++
		backend := []string{"auto", "plain"}[starts%2]
		return run("--config", configFile(t, fmt.Sprintf("%sdevices: {backend: %s, queues: %d}\n", plainFile, backend, queues)), "--metrics", metricsAddr)
	}
	g := begin(b.start)
	wire := b.watch()
	every := max(100*time.Millisecond, time.Duration(flows)*time.Millisecond/2)
	f := b.startTraffic(flows, every)
	report := func(what string, n int, began time.Time, sent, answered, frames int64) {
		lost := max(0, f.sent.Load()-sent-(f.answered.Load()-answered)) // but for some that are under way, now or at the beginning
		t.Logf("%d %s in %.1f s: %d TCP frames and %d UDP datagrams answered, %d datagrams lost; longest silence of all flows %v, of one connection %v",
			n, what, time.Since(began).Seconds(), f.frames.Load()-frames, f.answered.Load()-answered, lost, f.silence.take().Round(time.Millisecond), f.tcpSilence.take().Round(time.Millisecond))
	}
	seed := rand.Uint64()
	t.Logf("seed %d, %d TCP connections, %d UDP flows", seed, flows, flows)
	r := rand.New(rand.NewPCG(seed, 1))
	f.silence.take()
	f.tcpSilence.take()
	began, sent, answered, frames := time.Now(), f.sent.Load(), f.answered.Load(), f.frames.Load()
	early := 0
	for i := range kills {
		time.Sleep(time.Duration(r.Int64N(int64(400 * time.Millisecond))))
		g.stop(syscall.SIGKILL)
		if r.IntN(4) == 0 { // and once more in the middle of the start
			g = begin(b.launch)
			time.Sleep(time.Duration(r.Int64N(int64(150 * time.Millisecond))))
			g.stop(syscall.SIGKILL)
			early++
		}
		g = begin(b.start)
		if s := g.text(); i > 0 && !strings.Contains(s, `"msg":"adopted"`) {
			t.Fatalf("start %d adopted nothing:\n%s", i, s)
		}
		if t.Failed() {
			break
		}
	}
	f.progress("all flows to go on after the kills", 3)
	report("kills, "+strconv.Itoa(early)+" more in the middle of a start,", kills, began, sent, answered, frames)
	f.check()

	began, sent, answered, frames = time.Now(), f.sent.Load(), f.answered.Load(), f.frames.Load()
	last := g
	for i := range upgrades {
		time.Sleep(time.Duration(r.Int64N(int64(200 * time.Millisecond))))
		next := begin(b.start)
		if err := g.wait(); err != nil || !strings.Contains(g.text(), `"msg":"handed over"`) {
			t.Errorf("upgrade %d: the old process ended with %v\n%s", i, err, g.text())
		}
		if !strings.Contains(next.text(), `"msg":"adopted"`) {
			t.Errorf("upgrade %d adopted nothing:\n%s", i, next.text())
		}
		last, g = g, next
	}
	f.progress("all flows to go on after the upgrades", 3)
	report("upgrades", upgrades, began, sent, answered, frames)
	f.check()

	t.Logf("%d short flows on the side; %d sends were answered with an ICMP error", f.churned.Load(), f.unreachable.Load())
	t.Logf("the last start: %s", lineOf(g.text(), "adopted"))
	t.Logf("the last two: %s\n%s", lineOf(last.text(), "interfaces are up"), lineOf(g.text(), "interfaces are up"))
	f.stop()
	f.check()
	b.healthy()
	if r := wire().Report; r.Leaks > 0 || r.Packets == 0 {
		t.Errorf("%v, %d packets", r.Err(), r.Packets)
	}
}

// lineOf is that of a log with a message.
func lineOf(log, msg string) string {
	for l := range strings.Lines(log) {
		if strings.Contains(l, `"msg":"`+msg+`"`) {
			return strings.TrimSpace(l)
		}
	}
	return msg + ": not in the log"
}
