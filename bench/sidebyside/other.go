// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	fmt.Fprintf(os.Stderr, "sidebyside: namespaces and TUN devices are Linux; this is %s\n", runtime.GOOS)
	os.Exit(3)
}
