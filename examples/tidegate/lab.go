// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/tidegate/tidegate/internal/calls"
)

// labCmd are the commands about a region that is a lab.
type labCmd struct {
	Exec execCmd `cmd:"" help:"Run a program in an instance, or in the internet around the VPCs, as root there. Its exit code is that of tidegate."`
}

type execCmd struct {
	Instance string   `arg:"" help:"The id of a running instance, or internet."`
	Command  []string `arg:"" passthrough:"" help:"The program and its arguments, after --."`
}

// run becomes the program, or returns why it cannot.
func (e *execCmd) run(ctx context.Context, c *cli) error {
	if c.DryRun {
		return usageError{errors.New("--dry-run is for calls, not for lab exec")}
	}
	command := e.Command
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		return usageError{errors.New("lab exec: which program? Write tidegate lab exec INSTANCE -- COMMAND")}
	}
	client := calls.NewClient(c.Socket)
	m, err := client.Machine(ctx, e.Instance)
	client.Close()
	if err != nil {
		return err
	}
	err = enter(m, command[0], command[1:]...)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("entering an instance takes root: %w", err)
	}
	return err
}
