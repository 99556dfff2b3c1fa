// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

const uptimeChild = "GATEWAY_TEST_UPTIME"

func init() {
	if os.Getenv(uptimeChild) != "" { // TestUptime asks
		fmt.Println(int64(uptime()))
		os.Exit(0)
	}
}

// TestUptime: in a time namespace whose machine has slept for a day, as the kernel counts it, the clock has counted the
// day, which the monotonic clock has not.
func TestUptime(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("time namespaces need root")
	}
	cmd := exec.Command("unshare", "--time", "--boottime", "86400", "--fork", os.Args[0])
	cmd.Env = append(os.Environ(), uptimeChild+"=1")
	before := uptime()
	out, err := cmd.CombinedOutput()
	after := uptime()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var there time.Duration
	if _, err := fmt.Sscan(string(out), (*int64)(&there)); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	if slept := 24 * time.Hour; there < before+slept || there > after+slept {
		t.Errorf("there it is %v, here it was %v to %v", there, before, after)
	}
}
