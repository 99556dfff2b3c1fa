// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program starts tidegate as a process.
func (b *bed) program(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], append([]string{"--socket", b.socket}, args...)...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// lab starts a lab as a process, and returns it when it answers.
func (b *bed) lab() *exec.Cmd {
	b.t.Helper()
	cmd := b.program("serve", "--lab", "--state", b.state, "--pool", "198.51.100.0/28", "--cool-down", "1ms")
	out, err := cmd.StderrPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.Contains(lines.Text(), "holding a region") {
		b.t.Fatalf("it says %q, and ends: %v", lines.Text(), cmd.Wait())
	}
	return cmd
}

// exec runs a program in an instance.
func (b *bed) exec(instance string, command ...string) (code int, out string) {
	b.t.Helper()
	if strings.HasPrefix(instance, "@") {
		instance = b.names[instance[1:]]
	}
	cmd := b.program(append([]string{"lab", "exec", instance, "--"}, command...)...)
	var o bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &o
	cmd.Stdin = strings.NewReader("something to read\n")
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		b.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), strings.TrimSpace(o.String())
}

func (b *bed) must(line string) string {
	b.t.Helper()
	code, out, errOut := b.run(line)
	if code != exitOK {
		b.t.Fatalf("%s: %d, %s", line, code, errOut)
	}
	return out
}

// keep remembers what a command's answer has under a key.
func (b *bed) keep(name, line, key string) {
	b.t.Helper()
	out := b.must(line + " --output json")
	_, after, ok := strings.Cut(out, `"`+key+`": "`)
	value, _, _ := strings.Cut(after, `"`)
	if !ok {
		b.t.Fatalf("%s: no %s in %s", line, key, out)
	}
	b.names[name] = value
}

// reaches tells whether bash in an instance gets a TCP connection: no program but bash is needed.
func (b *bed) reaches(instance, address string, port int) bool {
	b.t.Helper()
	code, _ := b.exec(instance, "timeout", "1", "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", address, port))
	return code == 0
}

// TestLab: what a user does with a lab, through the command line alone, from the first VPC to a crash and a restart.
func TestLab(t *testing.T) {
	b := newBed(t)
	if os.Geteuid() != 0 {
		code := run(t.Context(), []string{"serve", "--lab", "--socket", b.socket, "--state", b.state, "--pool", "198.51.100.0/28"}, &bytes.Buffer{}, &bytes.Buffer{})
		if code != exitPrivilege {
			t.Errorf("without root it ends with %d", code)
		}
		return
	}
	server := b.lab()
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		if err := server.Wait(); err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	b.keep("vpc", "create-vpc --cidr-block 10.0.0.0/16", "VpcId")
	b.keep("subnet", "create-subnet --vpc-id @vpc --cidr-block 10.0.1.0/24", "SubnetId")
	b.keep("igw", "create-internet-gateway", "InternetGatewayId")
	b.must("attach-internet-gateway --internet-gateway-id @igw --vpc-id @vpc")
	b.keep("table", "describe-route-tables", "RouteTableId")
	b.must("create-route --route-table-id @table --destination-cidr-block 0.0.0.0/0 --gateway-id @igw")
	b.keep("i", "run-instances --subnet-id @subnet", "InstanceId")

	if code, out := b.exec("@i", "hostname"); code != 0 || out != "ip-10-0-1-4" {
		t.Errorf("hostname: %d, %q", code, out)
	}
	if code, out := b.exec("@i", "cat"); code != 0 || out != "something to read" {
		t.Errorf("cat: %d, %q", code, out)
	}
	if code, _ := b.exec("@i", "bash", "-c", "exit 42"); code != 42 {
		t.Errorf("exit 42 is %d", code)
	}
	if code, out := b.exec("@i", "bash", "-c", "echo --ids a b; kill -9 $$"); code != -1 || out != "--ids a b" {
		t.Errorf("a program that is killed: %d, %q", code, out)
	}
	for what, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"an instance that is not there": {[]string{"lab", "exec", "i-1", "--", "true"}, exitInput, `InvalidInstanceID.NotFound: there is no instance "i-1"`},
		"a program that is not there":   {[]string{"lab", "exec", "internet", "--", "no-such-program"}, exitFailed, "no-such-program"},
		"no program":                    {[]string{"lab", "exec", "internet", "--"}, exitInput, "which program"},
		"a dry run":                     {[]string{"--dry-run", "lab", "exec", "internet", "--", "true"}, exitInput, "--dry-run"},
	} {
		cmd := b.program(c.args...)
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(out), c.says) {
			t.Errorf("%s: %d, %s", what, cmd.ProcessState.ExitCode(), out)
		}
	}

	// A server in the internet, which ends with the test; the instance reaches it with an Elastic IP, and not without.
	listener := b.program("lab", "exec", "internet", "--", os.Args[0], "-test.run=^TestListener$")
	listener.Env = append(listener.Env, "TERM=dumb")
	ready, err := listener.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = listener.Process.Kill()
		_ = listener.Wait()
	})
	if line, err := bufio.NewReader(ready).ReadString('\n'); !strings.Contains(line, "listening") {
		t.Fatalf("%q, %v", line, err)
	}
	if b.reaches("@i", "192.0.2.1", 8080) {
		t.Error("it gets out without a public address")
	}
	b.keep("eip", "allocate-address", "AllocationId")
	b.keep("ip", "describe-addresses", "PublicIp")
	b.must("associate-address --allocation-id @eip --instance-id @i")
	if !b.reaches("@i", "192.0.2.1", 8080) {
		t.Error("it does not get out with an Elastic IP")
	}
	b.must("stop-instances --instance-ids @i")
	if code, out := b.exec("@i", "true"); code != exitInput || !strings.Contains(out, "does not run") {
		t.Errorf("in a stopped instance: %d, %s", code, out)
	}
	b.must("start-instances --instance-ids @i")
	if !b.reaches("@i", "192.0.2.1", 8080) {
		t.Error("it does not get out when it was started again")
	}

	// A crash leaves nothing, and a start brings all of it back.
	pid := server.Process.Pid
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = server.Wait()
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		t.Error("the process is still there")
	}
	server = b.lab()
	if code, out := b.exec("@i", "hostname"); code != 0 || out != "ip-10-0-1-4" {
		t.Errorf("after a restart: %d, %q", code, out)
	}
	if out := b.must("describe-addresses"); !strings.Contains(out, b.names["ip"]) {
		t.Errorf("after a restart: %s", out)
	}
	b.must("terminate-instances --instance-ids @i")
	if code, _ := b.exec("@i", "true"); code != exitInput {
		t.Errorf("in a terminated instance: %d", code)
	}
}

// TestListener is no test: it is the server that TestLab runs in a namespace.
func TestListener(t *testing.T) {
	if os.Getenv("HOME") != "/run/lab" {
		return
	}
	l, err := net.Listen("tcp4", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fmt.Println("listening")
	deadline := time.AfterFunc(time.Minute, func() { l.Close() })
	defer deadline.Stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}

// TestNoLab: a region that was served without --lab says so.
func TestNoLab(t *testing.T) {
	b := newBed(t)
	defer b.serve("--pool", "198.51.100.0/28")()
	if code, _, errOut := b.run("lab exec internet -- true"); code != exitFailed || !strings.Contains(errOut, "serve --lab") {
		t.Errorf("%d, %s", code, errOut)
	}
}
