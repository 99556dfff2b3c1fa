// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyLeave has c hear the signal that a gateway ends with, with everything in place for the next one.
func notifyLeave(c chan<- os.Signal) { signal.Notify(c, syscall.SIGUSR2) }
