// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package main

import "os/exec"

// asNobody leaves cmd as it is: without Linux there is no privilege that the program could use.
func asNobody(*exec.Cmd, string) error { return nil }
