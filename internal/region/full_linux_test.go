// SPDX-License-Identifier: Apache-2.0

package region

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/vpc"
)

// fullFile is childFile for a child whose files may not grow: what a full disk is like.
const fullFile = "TIDEGATE_TEST_FULL"

func init() {
	if path := os.Getenv(fullFile); path != "" {
		if err := fullChild(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// fullChild makes changes until the file cannot grow, and holds the region to what it was before the one that failed.
func fullChild(path string) error {
	signal.Ignore(syscall.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 128 << 10, Max: 128 << 10}); err != nil {
		return err
	}
	s, err := OpenStore(path)
	if err != nil {
		return err
	}
	r, err := Open(Options{Config: testConfig(), Journal: s, Engines: small(), Now: func() time.Time { return start }})
	if err != nil {
		return err
	}
	made := 0
	create := func(m *vpc.Model, _ time.Time) (any, error) {
		for range 20 {
			m.CreateInternetGateway()
		}
		return nil, nil
	}
	for ; made < 10000; made++ {
		if _, err = r.Change(create); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrNotSaved) || !strings.Contains(err.Error(), unix.EFBIG.Error()) {
		return fmt.Errorf("after %d changes: %w", made, err)
	}
	has := 0
	r.View(func(m *vpc.Model) { has = len(m.DescribeInternetGateways()) })
	fmt.Println(made*20, has)
	return s.Close()
}

// A full disk: the change is undone, which its error says, and the file has what was acknowledged.
func TestStore_FullDisk(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "state")
	c := exec.Command(exe)
	c.Env = append(os.Environ(), fullFile+"="+path)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var want, has int
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	if !lines.Scan() {
		t.Fatal("the child says nothing")
	}
	if _, err := fmt.Sscan(lines.Text(), &want, &has); err != nil || want != has || want == 0 {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := Open(Options{Config: testConfig(), Journal: s, Engines: small()})
	if err != nil {
		t.Fatal(err)
	}
	r.View(func(m *vpc.Model) {
		if n := len(m.DescribeInternetGateways()); n != want {
			t.Errorf("the file has %d gateways, want %d", n, want)
		}
	})
	if _, err := r.Change(allocate); err != nil {
		t.Errorf("a change with room again: %v", err)
	}
}
