// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/lab/story"
)

// program is the program under test, built once.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "vpc")
	if err == nil {
		program = filepath.Join(dir, "vpc.exe") // a name that every system takes for a program's
		var out []byte
		if out, err = exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		} else {
			err = os.Chmod(dir, 0o755) // other users run it too
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// ran is how one run of the program ended.
type ran struct {
	code           int
	stdout, stderr string
	report         story.Report
	pcap           string
}

// start runs the program beside the test; calling the result waits for its end. Runs spend their time waiting for
// answers that do not come, so many of them fit on a machine at once.
func start(t *testing.T, args ...string) func() *ran {
	t.Helper()
	r := &ran{pcap: t.TempDir()}
	return r.start(t, exec.Command(program, append([]string{"--json", "--pcap", r.pcap}, args...)...))
}

// startOrdinary is start as a user without privileges.
func startOrdinary(t *testing.T, args ...string) func() *ran {
	t.Helper()
	r := &ran{pcap: t.TempDir()}
	cmd := exec.Command(program, append([]string{"--json", "--pcap", r.pcap}, args...)...)
	if err := asNobody(cmd, r.pcap); err != nil {
		t.Fatal(err)
	}
	return r.start(t, cmd)
}

func (r *ran) start(t *testing.T, cmd *exec.Cmd) func() *ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	done := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(80*time.Second, func() { _ = cmd.Process.Kill() })
	go func() { done <- cmd.Wait() }()
	return func() *ran {
		t.Helper()
		err := <-done
		hung.Stop()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		r.code, r.stdout, r.stderr = cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
		if r.stdout != "" {
			if err := json.Unmarshal(stdout.Bytes(), &r.report); err != nil {
				t.Fatalf("%v in %q", err, r.stdout)
			}
		}
		return r
	}
}

// privileged says whether the story can be told with real kernels here. Where it cannot, the program must say so and
// nothing else.
func privileged(t *testing.T) bool {
	t.Helper()
	if runtime.GOOS == "linux" && os.Geteuid() == 0 {
		return true
	}
	if r := start(t, "--mode", "kernel")(); r.code != exitPrivilege || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("without Linux and root: exit %d, %q", r.code, r.stderr)
	}
	return false
}

// good checks a run without a fault, and that the judge agrees.
func (r *ran) good(t *testing.T) {
	t.Helper()
	if r.code != exitOK || !r.report.OK || len(r.report.Steps) != 8 {
		t.Fatalf("exit %d, %d steps\n%s%s", r.code, len(r.report.Steps), r.differences(), r.stderr)
	}
	j, err := judgeCaptures(r.pcap)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range j.differing() {
		t.Errorf("the judge on step %d:\n%s", step, strings.Join(j.faults[step], "\n"))
	}
}

func (r *ran) differences() string {
	var b strings.Builder
	for _, s := range r.report.Steps {
		for _, c := range s.Checks {
			if !c.OK {
				fmt.Fprintf(&b, "step %d: %s: expected: %s; seen: %s\n", s.Number, c.What, c.Expected, c.Seen)
			}
		}
	}
	return b.String()
}

// The story, with the programs of this machine and with Go alone, at the same time.
func TestStory(t *testing.T) {
	t.Parallel()
	if !privileged(t) {
		return
	}
	programs, inGo := start(t), start(t, "--go")
	r := programs()
	r.good(t)
	if r.report.Mode != modeKernel || r.stderr != "" {
		t.Errorf("mode %q, %q", r.report.Mode, r.stderr)
	}
	r = inGo()
	r.good(t)
	for name, by := range r.report.Tools {
		if by != "Go" {
			t.Errorf("with --go, %s is done by %s", name, by)
		}
	}
}

// Each fault is noticed by the step that can notice it first, and by the judge in the same step.
func TestFaults(t *testing.T) {
	if privileged(t) {
		testFaults(t, "--mode", modeKernel, "--go")
	}
}

func testFaults(t *testing.T, args ...string) {
	runs := map[string]func() *ran{}
	for _, name := range story.FaultNames() {
		runs[name] = start(t, append(args, "--fault", name)...)
	}
	for _, name := range story.FaultNames() {
		t.Run(name, func(t *testing.T) {
			r := runs[name]()
			want := story.Faults[name].Step
			if r.code != exitFailed || r.report.OK || r.report.Fault != name {
				t.Fatalf("exit %d, %q", r.code, r.stderr)
			}
			if steps := r.report.Differing(); len(steps) == 0 || steps[0] != want {
				t.Errorf("steps %v differ; the first should be %d\n%s", steps, want, r.differences())
			}
			j, err := judgeCaptures(r.pcap)
			if err != nil {
				t.Fatal(err)
			}
			if steps := j.differing(); len(steps) == 0 || steps[0] != want {
				t.Errorf("the judge says steps %v; the first should be %d: %q", steps, want, j.faults)
			}
		})
	}
}

// Killed in the middle, it leaves nothing behind, and the next run is good.
func TestKilled(t *testing.T) {
	t.Parallel()
	if !privileged(t) {
		return
	}
	before := interfaces(t)
	cmd := exec.Command(program)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Until it is in the middle: sshd runs on all hosts, and the third step, which uses it, is over.
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), "Step 3") {
		n, err := out.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v after %q", err, seen.String())
		}
	}
	family := descendants(t, cmd.Process.Pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if len(family) == 0 && seenProgram(seen.String(), "sshd") {
		t.Error("no program was running")
	}
	eventually(t, "programs of the killed run are still there", func() bool { return !slices.ContainsFunc(family, alive) })
	eventually(t, "interfaces of the killed run are still there", func() bool { return slices.Equal(before, interfaces(t)) })
	start(t, "--go")().good(t)
}

// Kept, it stays up until it is told to end, and its hosts can be entered as it says.
func TestKeep(t *testing.T) {
	t.Parallel()
	if !privileged(t) {
		return
	}
	cmd := exec.Command(program, "--go", "--keep")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	var hosts []string
	for lines := bufio.NewScanner(stderr); len(hosts) < 9 && lines.Scan(); {
		if name, enter, ok := strings.Cut(strings.TrimSpace(lines.Text()), " "); ok && strings.Contains(enter, "nsenter") {
			hosts = append(hosts, name)
			enter := strings.TrimSuffix(strings.TrimSpace(enter), "bash")
			if out, err := exec.Command("sh", "-c", enter+"uname -n").CombinedOutput(); string(out) != name+"\n" || err != nil {
				t.Errorf("%s: %q, %v", enter, out, err)
			}
		}
	}
	if want := []string{"web", "bastion", "was", "db", "internet", "transit", "mirror", "client", "scanner"}; !slices.Equal(hosts, want) {
		t.Errorf("hosts to enter: %v", hosts)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
}

// seenProgram says whether the first line of the output names a program of this machine.
func seenProgram(output, name string) bool {
	line, _, _ := strings.Cut(output, ".")
	return strings.Contains(line, name)
}

// eventually waits for the kernel, which ends processes in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error(what)
			return
		}
	}
}

// interfaces are the names of this namespace's interfaces.
func interfaces(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	slices.Sort(names)
	return names
}

// descendants are the processes below pid.
func descendants(t *testing.T, pid int) (all []int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tasks {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		for _, s := range strings.Fields(string(data)) {
			child, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			all = append(append(all, child), descendants(t, child)...)
		}
	}
	return all
}

// alive says whether a process runs; one that is dead and waits for its parent does not.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--help"}, exitOK, "--fault"},
		{[]string{"--fault", "list"}, exitOK, "elastic-ip"},
		{[]string{"--fault", "none"}, exitUsage, "choose one of: checksum, elastic-ip,"},
		{[]string{"--mode", "none"}, exitUsage, "auto"},
		{[]string{"--mode", "netstack", "--keep"}, exitUsage, "leave out one"},
		{[]string{"--bogus"}, exitUsage, "--help"},
		{[]string{"extra"}, exitUsage, "--help"},
	} {
		var out bytes.Buffer
		if code := run(c.args, &out, &out); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("vpc %s: exit %d, %q", strings.Join(c.args, " "), code, out.String())
		}
	}
}
